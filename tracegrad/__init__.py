"""TraceGrad: neural networks that predict electronic-structure Hamiltonians."""

__version__ = "0.1.0"

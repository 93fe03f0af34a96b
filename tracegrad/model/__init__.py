"""The network as a whole: a backbone, its TraceGrad blocks and the decoders."""

from tracegrad.model.network import HamiltonianModel, Prediction

__all__ = ["HamiltonianModel", "Prediction"]

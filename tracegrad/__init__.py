"""TraceGrad: neural networks that predict electronic-structure Hamiltonians."""

import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("TraceGrad needs Linux or macOS (locks, signals and processes of POSIX); run it in WSL")

if TYPE_CHECKING:
    from tracegrad.weights.saved import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tracegrad.weights.saved import (
        load_model,  # here: it takes torch, which the version alone does not need
    )

    return load_model

"""TraceGrad: neural networks that predict electronic-structure Hamiltonians."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("TraceGrad needs Linux or macOS (locks, signals and processes of POSIX); run it in WSL")

if TYPE_CHECKING:
    from tracegrad.weights.ensembles import load_ensemble
    from tracegrad.weights.saved import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_ensemble", "load_model"]
_PLACES = {"load_ensemble": "tracegrad.weights.ensembles", "load_model": "tracegrad.weights.saved"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported here: it takes torch, which the version alone does not need.
    return getattr(importlib.import_module(_PLACES[name]), name)

"""The complete network: a backbone with TraceGrad blocks and decoders, and the cost of its predictions."""

from tracegrad.model.network import HamiltonianModel, HamiltonianPrediction

__all__ = ["HamiltonianModel", "HamiltonianPrediction"]

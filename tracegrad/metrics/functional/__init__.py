"""Metrics as functions of tensors, without state."""

from tracegrad.metrics.functional.hamiltonian import SampleErrors, hamiltonian_errors
from tracegrad.metrics.functional.orbitals import orbital_metrics

__all__ = ["SampleErrors", "hamiltonian_errors", "orbital_metrics"]

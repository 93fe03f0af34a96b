"""Errors of predicted Hamiltonians and of their orbitals."""

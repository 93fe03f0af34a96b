"""Band structures of predicted Hamiltonians."""

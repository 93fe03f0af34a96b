"""Products of all pairs of channels, and the transpose of their Jacobian."""

"""SiLU of a LayerNorm, and the transpose of its Jacobian."""

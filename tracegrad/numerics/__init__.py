"""What operators are made of: compiled kernels, matrix products, constants, precision."""

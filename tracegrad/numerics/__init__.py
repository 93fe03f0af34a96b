"""Building blocks of operators: compiled kernels, matrix products, constant tables, precision."""

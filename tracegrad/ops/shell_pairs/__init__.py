"""The operator of the expansion of features into blocks."""

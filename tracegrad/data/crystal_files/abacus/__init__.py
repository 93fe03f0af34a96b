"""Output of ABACUS, and its files of H and S."""

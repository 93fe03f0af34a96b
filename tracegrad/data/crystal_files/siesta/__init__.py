"""Output of SIESTA."""

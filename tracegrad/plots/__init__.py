"""Figures, drawn with matplotlib from results and matrices; each function returns a `Figure`."""

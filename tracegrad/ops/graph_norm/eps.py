"""The number that is added to the deviation of a graph norm."""

EPS = 1e-5

"""Layers of QHNet, on component-first features: one tensor x[l^2 + l + m, i, c] of shape [(L + 1)^2, n, C].

All degrees 0 .. L have the same number of channels C and stand one after another along the first axis.
"""

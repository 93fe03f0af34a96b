"""The TraceGrad block: invariants u and z of a feature f, and the gradient v = dz/df.

Features are lists of component-first tensors [2l + 1, n, C], one for each irrep.
"""

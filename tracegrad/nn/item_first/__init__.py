"""Layers of DeepH-E3, on item-first features: one tensor ``x[k][i, l + m, c]``, [n, 2l + 1, C_k], for each irrep k.

The features of edges are kept in the frame of their edge (`edge_frame`) and are rearranged by |m| where they are
multiplied (`tracegrad.ops.edge_rows`); the features of nodes are kept in the global frame.
"""

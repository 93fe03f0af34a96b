"""Matrices of the tensor product in the frame of an edge, from weights of rank one."""

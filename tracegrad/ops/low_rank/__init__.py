"""Invariants with a low-rank W: inner products of mapped channels, and a whole TraceGrad block of them."""

"""Operators with a plain form in torch, C++ kernels for CPUs and Triton kernels for GPUs.

`operator` defines what an operator is, and `native` compiles and calls C++. Every other file or folder is one
operator: its formula and shapes stand in the file that defines it, next to the plain form; the forms of the devices
are in files that end in ``cpu`` and ``gpu``.
"""

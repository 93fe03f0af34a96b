"""Hamiltonians of crystals in the files and objects of other programs: Wannier90 (PythTB), sisl and SIESTA."""

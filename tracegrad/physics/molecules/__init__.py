"""DFT of molecules with PySCF: reference data, orbitals, acceleration."""

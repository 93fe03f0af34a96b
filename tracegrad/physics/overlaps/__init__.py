"""Overlaps of atomic orbitals from the basis files of OpenMX, ABACUS and SIESTA.

`basis_files` reads the radial functions, `radial_tables` makes tables of the two-centre integrals on the distance,
and `two_centre` turns them along the pairs of a structure: S(R)_ij with derivatives. See docs/overlaps.md.
"""

"""Units and conversion factors, each stated once.

Energies are hartree (molecules) or eV (crystals) and lengths angstrom inside, as their files have them; energies
become meV only in metrics and reports.
"""

# The factor of the paper (footnote 1: 1 E_h = 27211.4 meV), kept so that tables compare digit for digit.
MEV_PER_HARTREE = 27211.4
# meV in one unit of energy of `OrbitalBasis.unit`.
MEV = {"hartree": MEV_PER_HARTREE, "eV": 1000.0}
# The value of the released QH9 loader, which divides bohr positions by it.
BOHR_PER_ANGSTROM = 1.8897259886
# The values of the converters from OpenMX to DeepH's format. The hartree differs from that of the paper by 6e-7, but
# what is read from OpenMX has to equal the released databases, which were converted with this value.
EV_PER_HARTREE = 27.2113845
# ABACUS' own value, with which its matrices give the eigenvalues that it prints.
EV_PER_RYDBERG_ABACUS = 13.605698066
ANGSTROM_PER_BOHR = 0.529177249
# CODATA 2018, with which SIESTA and FHI-aims are read: SIESTA prints its energies with it.
EV_PER_HARTREE_2018 = 27.211386245988

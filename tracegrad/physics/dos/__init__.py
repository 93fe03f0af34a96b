"""What follows from the states of a whole Brillouin zone: the Fermi level, gaps and densities of states."""

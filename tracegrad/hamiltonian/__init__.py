"""What a Hamiltonian is: orbital bases, blocks of pairs of atoms, graphs, traces."""

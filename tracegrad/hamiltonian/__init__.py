"""How a Hamiltonian is represented: orbital bases, blocks between atoms, graphs, trace labels."""

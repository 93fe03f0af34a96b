"""Band structures of DFT and predicted Hamiltonians: paths, eigenproblems, gaps, errors."""

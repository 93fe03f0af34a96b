"""The irreps of the basic blocks of a Hamiltonian: what a network has to predict."""

from e3nn.o3 import Irrep, Irreps

from tracegrad.hamiltonian.basis import OrbitalBasis


def needed_irreps(basis: OrbitalBasis) -> Irreps:
    """Irreps of a whole block of H in the union layout, with their numbers, sorted.

    Shells of degrees l and l' make the degrees |l - l'| .. l + l' with the parity (-1)^(l + l'). With spin-orbit
    coupling each of them is multiplied by 0e (no spin) and 1e (the three components of the spin), and H is complex,
    so that everything is there twice, as real and imaginary parts.
    """
    spatial = basis.union[: len(basis.union) // basis.spins]
    spin = Irreps("0e + 1e") if basis.spinful else Irreps("0e")
    copies = 2 if basis.spinful else 1
    found = []
    for first in spatial:
        for second in spatial:
            parity = (-1) ** (first + second)
            for degree in range(abs(first - second), first + second + 1):
                found += [(copies, ir) for _, part in spin for ir in part * Irrep(degree, parity)]
    return Irreps(found).sort().irreps.simplify()

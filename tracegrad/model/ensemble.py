"""Several networks as one: the mean of their Hamiltonians, and the spread by which they differ."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.h0 import DATA
from tracegrad.model.network import HamiltonianModel


class HamiltonianEnsemble:
    """Networks for the same Hamiltonians, such as those of trainings that differ in their seeds.

    The spread of a matrix element is the sample standard deviation over the members; that of a block or of a
    structure is the mean over its elements. Where the members have learned the same it is small, whatever the truth.

    Args:
        members: the networks.

    Raises:
        ConfigError: no network, or two whose orbitals differ.
    """

    def __init__(self, members: Sequence[HamiltonianModel]):
        if not members:
            raise ConfigError("an ensemble needs at least one network")
        for number, member in enumerate(members[1:], start=2):
            ours, theirs = members[0].basis, member.basis
            for what, one, other in (
                ("the order of their orbitals", ours.convention, theirs.convention),
                ("the shells of the elements", ours.shells, theirs.shells),
                ("spin-orbit coupling", ours.spinful, theirs.spinful),
                ("both spins of collinear calculations", ours.collinear, theirs.collinear),
            ):
                if one != other:
                    raise ConfigError(
                        f"networks 1 and {number} differ in {what}, {one} and {other}, and have no common mean; give "
                        "networks that were trained on the same kind of data"
                    )
        self.members = list(members)
        self.basis = members[0].basis

    def to(self, device: str | torch.device) -> "HamiltonianEnsemble":
        """Move the members to a device."""
        for member in self.members:
            member.to(device)
        return self

    @property
    def corrects_data(self) -> bool:
        """Whether a member needs H0 of the data."""
        return any(member.h0 == DATA for member in self.members)

    @property
    def label(self) -> str:
        """Names of the networks, for people."""
        labels = dict.fromkeys(member.backbone.label for member in self.members)
        count = f"{len(self.members)} networks, " if len(self.members) > 1 else ""
        return count + ", ".join(labels)

    def hamiltonian(
        self,
        numbers: Int[np.ndarray, " atoms"],
        positions: Float[np.ndarray, "atoms 3"],
        lattice: Float[np.ndarray, "3 3"] | None = None,
        edges: Int[np.ndarray, "edges 5"] | None = None,
        *,
        spin: str | None = None,
        h0: Sequence[Inexact[np.ndarray, "_ _"]] | None = None,
    ) -> Float[Tensor, "n n"] | list[Inexact[np.ndarray, "_ _"]]:
        """Mean of the members' H; arguments and result are those of `HamiltonianModel.hamiltonian`.

        Only members that correct H0 of the data get ``h0``.
        A molecule's matrix is in float64 and on the CPU.
        """
        if lattice is None:
            return torch.from_numpy(self.matrix(numbers, positions)[0])
        of_members = [
            member.hamiltonian(
                numbers, positions, lattice, edges, spin=spin, h0=h0 if member.h0 == DATA else None
            )
            for member in self.members
        ]
        return [np.mean(blocks, axis=0) for blocks in zip(*of_members, strict=True)]

    def matrix(
        self, numbers: Int[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]
    ) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
        """Mean and spread of H of a molecule (angstrom); unit and order as of `HamiltonianModel.hamiltonian`."""
        return mean_and_spread(self.predictions(numbers, positions))

    def predictions(
        self, numbers: Int[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]
    ) -> Iterator[Float[np.ndarray, "n n"]]:
        """H of a molecule by each member in turn, float64."""
        for member in self.members:
            matrix = member.hamiltonian(numbers, positions)
            assert isinstance(matrix, Tensor)
            yield matrix.cpu().numpy().astype(np.float64)

    def outside_training(
        self,
        numbers: Int[np.ndarray, " atoms"],
        positions: Float[np.ndarray, "atoms 3"],
        lattice: Float[np.ndarray, "3 3"] | None = None,
        edges: Int[np.ndarray, "edges 5"] | None = None,
    ) -> list[str]:
        """What lies outside of the training of any member, see `HamiltonianModel.outside_training`."""
        lines = (member.outside_training(numbers, positions, lattice, edges) for member in self.members)
        return list(dict.fromkeys(line for of_member in lines for line in of_member))


def mean_and_spread(
    predictions: Iterable[Inexact[np.ndarray, "*shape"]],
) -> tuple[Inexact[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Mean of arrays, and their sample standard deviation (of complex numbers: of the modulus of the deviation).

    One array is in memory at a time, beside the results. The spread of a single one is 0.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for array in predictions:  # Welford's recursion
        count += 1
        change = array - mean
        mean = mean + change / count
        squares = squares + (change * (array - mean).conj()).real
    return mean, np.sqrt(squares / max(count - 1, 1))


def block_spreads(
    spread: Float[np.ndarray, "n n"], sizes: Int[np.ndarray, " atoms"]
) -> Float[np.ndarray, "atoms atoms"]:
    """Mean spread in the block of each two atoms.

    Args:
        spread: of the elements of a molecule's matrix.
        sizes: number of orbitals of each atom.
    """
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(np.add.reduceat(spread, starts, axis=0), starts, axis=1)
    return sums / np.outer(sizes, sizes)

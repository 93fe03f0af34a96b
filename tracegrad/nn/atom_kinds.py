"""The kinds of atoms that a network tells apart: elements and, with collinear spin, the spin that is meant."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tracegrad.hamiltonian.basis import OrbitalBasis


class AtomKinds(nn.Module):
    """Number of the kind of each atom of a graph.

    With collinear spin each element is there twice, first all elements for spin up and then all for spin down. The
    two Hamiltonians are then two outputs of one network, which differ by the embeddings of the atoms only. The spin
    is a scalar, so that a network that is equivariant for the elements is so for the kinds.

    Args:
        basis: orbital basis with the elements.

    Attributes:
        elements: number of elements; kind % elements is the element.
        count: number of kinds.
    """

    def __init__(self, basis: OrbitalBasis):
        super().__init__()
        self.elements, self.collinear = len(basis.elements), basis.collinear
        self.count = self.elements * len(basis.channels)
        table = torch.full((max(basis.elements) + 1,), -1)
        table[list(basis.elements)] = torch.arange(self.elements)
        self.register_buffer("element_of_number", table, persistent=False)
        self.element_of_number: Tensor

    def forward(self, graph) -> Int[Tensor, " atoms"]:
        """Kinds of the atoms of a graph or a batch of them."""
        element = self.element_of_number.index_select(0, graph.numbers)
        return element + self.elements * graph.spin if self.collinear else element

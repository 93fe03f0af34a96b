"""A backbone with TraceGrad: from a graph to Hamiltonian blocks and traces."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracegrad.backbones.interface import Backbone, Feature
from tracegrad.basis import OrbitalBasis
from tracegrad.blocks import assemble_matrix
from tracegrad.errors import DataError
from tracegrad.geometry import check_positions
from tracegrad.graph import collate, molecule_graph
from tracegrad.nn.tracegrad import TraceGrad

MINIMUM_DISTANCE = 0.1  # angstrom; closer atoms are a mistake in the geometry


@dataclass
class Prediction:
    """Blocks of H in the union layout (hartree), and traces T of the supervised sites (hartree^2)."""

    on_site: Float[Tensor, "atoms dim dim"]
    pairs: Float[Tensor, "edges dim dim"]
    traces: dict[str, Float[Tensor, "_ shells shells"]] = field(default_factory=dict)


class HamiltonianModel(nn.Module):
    """Backbone, TraceGrad blocks and decoders.

    Args:
        backbone: predicts the blocks and hands out its features.
        tracegrad: makes the TraceGrad module from the backbone's irreps and number of shells
            (a partial of `TraceGrad`); None is the plain backbone.
    """

    def __init__(self, backbone: Backbone, tracegrad: Callable[..., TraceGrad] | None = None):
        super().__init__()
        self.backbone = backbone
        shells = len(backbone.basis.union)
        make = tracegrad or _plain
        self.tracegrad = make(backbone.feature_irreps, shells)

    @property
    def basis(self) -> OrbitalBasis:
        """Orbital basis of the predicted blocks."""
        return self.backbone.basis

    def forward(self, graph, *, traces: bool = True) -> Prediction:
        """Prediction for a graph or a batch; ``traces=False`` skips what only the trace loss needs."""
        collected: dict[str, list[Tensor]] = {}

        def refine(site: str, k: int, f: Feature) -> Feature:
            o, z = self.tracegrad.refine(site, k, f, need_z=traces)
            if z is not None:
                collected.setdefault(site, []).append(z)
            return o

        blocks = self.backbone(graph, refine)
        decoded = self.tracegrad.decode(collected) if traces else {}
        return Prediction(blocks.on_site, blocks.pairs, decoded)

    @torch.inference_mode()
    def hamiltonian(
        self,
        numbers: Int[np.ndarray, " atoms"] | Int[Tensor, " atoms"],
        positions: Float[np.ndarray, "atoms 3"] | Float[Tensor, "atoms 3"],
    ) -> Float[Tensor, "n n"]:
        """Dense Hamiltonian of one molecule: hartree, in the orbital order of the basis (PySCF for QH9).

        Args:
            numbers: atomic numbers.
            positions: angstrom.

        Raises:
            BasisError: an element outside the model's basis.
            DataError: no numbers, shapes that do not fit, numbers that are not finite, atoms on top of each
                other.
        """
        numbers = _whole(_numeric(numbers, "atomic numbers"))
        positions = _numeric(positions, "positions").astype(np.float64)
        check_positions(numbers, positions, "molecule", MINIMUM_DISTANCE)
        self.basis.check(numbers, "molecule")
        parameter = next(self.parameters())
        graph = molecule_graph(numbers, positions, self.basis, dtype=parameter.dtype)
        prediction = self(collate([graph]).to(parameter.device), traces=False)
        return assemble_matrix(prediction.on_site, prediction.pairs, numbers, self.basis)


def _numeric(values: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError) as error:
        raise DataError(f"molecule: the {what} do not make an array of numbers") from error
    if array.dtype.kind not in "iuf":
        raise DataError(f"molecule: the {what} must be numbers, not {array.dtype.name}")
    return array


def _whole(numbers: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # what no integer can hold compares unequal
        whole = numbers.astype(np.int64)
    for number in numbers[numbers != whole].tolist()[:1]:
        raise DataError(f"molecule: atomic number {number} is not whole")
    return whole


def _plain(feature_irreps, shells: int) -> TraceGrad:
    return TraceGrad(feature_irreps, shells, trace=False, grad=False)

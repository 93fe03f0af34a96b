"""The term of the loss that knows the states: the error of H in the basis of the true orbitals or Bloch states."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.dense import DenseMatrices
from tracegrad.hamiltonian.reduction import sites
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.model.network import HamiltonianPrediction
from tracegrad.ops.block_errors.block_errors import MEASURES
from tracegrad.training.loss_terms import LossTerm
from tracegrad.units import MEV

# Combinations of orbitals whose eigenvalue of S is smaller hardly exist, and are projected out.
SMALLEST_OVERLAP = 1e-5
States = tuple[Inexact[Tensor, "n m"], Float[Tensor, " m"]]


class StatesTerm(LossTerm):
    """The error of H in the basis of the true states, weighted towards occupied and frontier states.

    With the solutions H C = S C eps of the label, the matrix E = C^dagger dH C has on its diagonal the errors of the
    energies in first order, and beside it those of the states. The value of a sample is

        sum_ij g_i g_j |E_ij|^p / sum_ij g_i g_j,

    with g = 1 for states up to ``window`` above the LUMO (molecules) or the Fermi level (crystals), and
    ``empty_weight`` for those above; of crystals it is averaged over the points ``k``. States whose overlap is nearly
    singular (`SMALLEST_OVERLAP`) are left out.

    The states of a sample are computed in float64 when it is met first, and kept in memory.

    Args:
        measures: those of `MEASURES` that are added: p = 2 ("mse"), p = 1 ("mae").
        window: eV.
        empty_weight: g of the states above the window, above 0 and up to 1.
        k: points of crystals, fractions of the reciprocal lattice vectors.
        memory: bytes that each process keeps of states.

    Raises:
        ConfigError: unknown measures, or a window, weight or point that is none.
    """

    needs_overlap = True

    def __init__(
        self,
        basis: OrbitalBasis,
        labels: BlockTraces,
        weight: float = 1.0,
        *,
        measures: Sequence[str] = ("mse", "mae"),
        window: float = 2.0,
        empty_weight: float = 0.1,
        k: Sequence[Sequence[float | int]] = ((0.0, 0.0, 0.0),),
        memory: float | int = 1e9,
    ):
        super().__init__(basis, labels, weight)
        if not measures or not set(measures) <= set(MEASURES):
            raise ConfigError(f"the states have the measures {list(measures)}; choose from {list(MEASURES)}")
        if not 0 < empty_weight <= 1 or not window >= 0:
            raise ConfigError(
                f"the states have window={window} and empty_weight={empty_weight}; give at least 0 eV, and a weight "
                "above 0 and up to 1"
            )
        if not k or any(len(point) != 3 for point in k):
            raise ConfigError(f"the states have k={k}; give a list of points, each of three fractions")
        if not basis.periodic and any(any(point) for point in k):
            raise ConfigError(f"the states have k={k}, but molecules have no k; leave it out")
        self.measures, self.empty_weight = tuple(measures), empty_weight
        self.window = window * MEV["eV"] / MEV[basis.unit]
        self.points = [tuple(float(x) for x in point) for point in k]
        self.dense = DenseMatrices(basis)
        self._kept = _Kept(memory)

    def forward(self, prediction: HamiltonianPrediction, graph) -> Float[Tensor, " samples"]:
        difference = {site: blocks - graph[f"h_{site}"] for site, blocks in prediction.blocks.items()}
        values = []
        for point in self.points:
            matrices = self.dense(difference, graph, point)
            errors = (
                self._error(matrix, *states)
                for matrix, states in zip(matrices, self._states(graph, point), strict=True)
            )
            values.append(torch.stack(list(errors)))
        return torch.stack(values).mean(0)

    def _error(
        self, difference: Inexact[Tensor, "n n"], states: Inexact[Tensor, "n m"], g: Float[Tensor, " m"]
    ) -> Float[Tensor, ""]:
        states, g = states.to(difference), g.to(difference.real)
        errors = (states.mH @ difference @ states).abs()
        weights = g[:, None] * g / g.sum().square()
        powers = [errors.square() if measure == "mse" else errors for measure in self.measures]
        return (weights * torch.stack(powers)).sum()

    @torch.no_grad()
    def _states(self, graph, point: tuple[float, ...]) -> list[States]:
        """States and weights g of each sample."""
        names = [(row, point) for row in graph.sample_id.tolist()]
        kept = [self._kept.get(name) for name in names]
        if None not in kept:
            return kept  # type: ignore[return-value]
        h, s = (self.dense(self._exact(graph, matrix), graph, point) for matrix in ("h", "s"))
        result = []
        for i, (name, states) in enumerate(zip(names, kept, strict=True)):
            if states is None:
                states = self._solve(graph, i, h[i], s[i])
                self._kept.put(name, states)
            result.append(states)
        return result

    def _exact(self, graph, matrix: str) -> dict[str, Inexact[Tensor, "_ dim dim"]]:
        blocks = {site: graph[f"{matrix}_{site}"] for site in sites(graph)}
        return {
            site: b.to(torch.complex128 if b.is_complex() else torch.float64) for site, b in blocks.items()
        }

    def _solve(self, graph, sample: int, h: Inexact[Tensor, "n n"], s: Inexact[Tensor, "n n"]) -> States:
        values, vectors = torch.linalg.eigh(s.to(h.dtype) if h.is_complex() else s)
        chosen = values > SMALLEST_OVERLAP
        x = vectors[:, chosen] * values[chosen].rsqrt()
        energies, states = torch.linalg.eigh(x.mH @ h.to(x.dtype) @ x)
        if self.basis.periodic:
            top = float(graph.fermi_level[sample])
            if math.isnan(top) and self.empty_weight < 1:
                raise DataError(
                    f"row {int(graph.sample_id[sample])} has no Fermi level, above which states count less; add it "
                    "to info.json, or set loss.terms.states.empty_weight=1"
                )
        else:
            atoms = graph.numbers[graph.batch == sample]
            top = float(energies[min(int(atoms.sum()) // 2, len(energies) - 1)])  # LUMO
        above = energies > top + self.window
        return x @ states, torch.where(above, self.empty_weight, 1.0)


class _Kept:
    """Keeps states up to a number of bytes; the oldest leave first."""

    def __init__(self, memory: float | int):
        self.memory, self.used = memory, 0
        self._states: OrderedDict[tuple[int, tuple[float, ...]], States] = OrderedDict()

    def get(self, name: tuple[int, tuple[float, ...]]) -> States | None:
        return self._states.get(name)

    def put(self, name: tuple[int, tuple[float, ...]], states: States) -> None:
        self._states[name] = states
        self.used += _bytes(states)
        while self.used > self.memory and len(self._states) > 1:
            self.used -= _bytes(self._states.popitem(last=False)[1])


def _bytes(states: States) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in states)

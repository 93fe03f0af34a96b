"""The network: a backbone with TraceGrad, from a graph to blocks of H and traces."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor, nn

from tracegrad.errors import ConfigError, DataError
from tracegrad.extras import require
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import assemble_matrix, block_starts, cut_padding
from tracegrad.hamiltonian.crystal_view import as_crystals, by_site
from tracegrad.hamiltonian.geometry import check_positions
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate, crystal_graph, molecule_graph
from tracegrad.hamiltonian.h0 import add_h0, check_h0
from tracegrad.hamiltonian.neighbours import edge_lengths
from tracegrad.hamiltonian.reduction import is_on_site
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.hamiltonian.trained_range import TrainedRange
from tracegrad.nn.interface import Backbone, Blocks, ComponentFirstFeature, Refine
from tracegrad.nn.invariant.tracegrad import TraceGrad

MINIMUM_DISTANCE = 0.1  # angstrom; closer atoms are a mistake in the geometry
# Smallest volume of a cell over the product of the lengths of its lattice vectors; below, they lie in a plane.
SMALLEST_VOLUME_RATIO = 1e-6


@dataclass
class HamiltonianPrediction:
    """Predicted blocks of H at each site, and traces T at the supervised sites in the square of the unit of H.

    ``earlier`` are the blocks after each stage but the last, of a network that corrects its own result.
    """

    blocks: Blocks
    traces: dict[str, Float[Tensor, "_ labels"]] = field(default_factory=dict)
    earlier: list[Blocks] = field(default_factory=list)


class HamiltonianModel(nn.Module):
    """Backbone with TraceGrad blocks and decoders.

    Args:
        backbone: predicts the blocks of H; its features pass through TraceGrad blocks.
        tracegrad: returns the TraceGrad module for the irreps of the backbone's features and its basis (a partial of
            `TraceGrad`); None: the backbone without TraceGrad.
        compile: whether `compile_as_configured` compiles the forward pass.
        h0: name of the H0 of molecules that the network corrects (`tracegrad.hamiltonian.h0`); None: it predicts H.

    Attributes:
        trained_range: elements, sizes and distances of its training; None: unknown, as in files of earlier versions.

    Raises:
        ConfigError: a network that takes only molecules, and a basis of crystals; an unknown H0.
    """

    def __init__(
        self,
        backbone: Backbone,
        tracegrad: Callable[..., TraceGrad] | None = None,
        *,
        compile: bool = False,
        h0: str | None = None,
    ):
        super().__init__()
        if backbone.basis.periodic and not backbone.periodic:
            raise ConfigError(
                f"{backbone.label} predicts only molecules, and the basis ({backbone.basis.name} in the order of "
                f"{backbone.basis.convention}) is one of crystals; choose model=deeph_e3, or molecules as data"
            )
        check_h0(h0, backbone.basis)
        self.backbone, self.h0 = backbone, h0
        # Molecules for a network whose blocks all belong to edges
        self.views_crystals = backbone.periodic and not backbone.basis.periodic
        self.compiles = compile
        self.trained_range: TrainedRange | None = None
        self.tracegrad = (tracegrad or _without_tracegrad)(backbone.feature_irreps, backbone.basis)
        if backbone.features_frozen:
            self.tracegrad.requires_grad_(False)

    @property
    def basis(self) -> OrbitalBasis:
        """Orbital basis of the predicted blocks."""
        return self.backbone.basis

    def compile_as_configured(self) -> None:
        """From now on forward and backward pass run compiled, if the network was made with ``compile=True``.

        Trainings and evaluations call it. A prediction of one structure does not: compiling takes longer.

        Raises:
            ConfigError: a torch that cannot compile the networks into one graph.
        """
        if self.compiles:
            if torch.__version__.startswith("2.8."):
                raise ConfigError(
                    f"model.compile=true: torch {torch.__version__} cannot compile the network into one graph; "
                    "install a newer torch, or set model.compile=false"
                )
            self.compile(fullgraph=True, dynamic=True)

    @property
    def trace_labels(self) -> BlockTraces:
        """Computes the labels of the predicted traces from blocks of H."""
        return self.tracegrad.labels

    def forward(self, graph, *, traces: bool = True) -> HamiltonianPrediction:
        """Prediction for a batch of graphs; ``traces=False`` skips the traces, which only the trace loss needs."""
        invariants: dict[tuple[str, int], list[Tensor]] = {}  # z of site and block, in chunks of edges

        def refine(site: str, k: int, f: ComponentFirstFeature) -> ComponentFirstFeature:
            o, z = self.tracegrad.refine(site, k, f, need_z=traces)
            if z is not None:
                invariants.setdefault((site, k), []).append(z)
            return o

        *earlier, blocks = self.stages(graph, refine)
        collected: dict[str, list[Tensor]] = {}
        for (site, _), chunks in sorted(invariants.items(), key=lambda item: item[0]):
            collected.setdefault(site, []).append(torch.cat(chunks) if len(chunks) > 1 else chunks[0])
        decoded = self.tracegrad.decode(collected) if traces else {}
        if self.views_crystals and decoded:
            decoded = by_site(decoded["edge"], graph)
        return HamiltonianPrediction(blocks, decoded, earlier)

    def stages(self, graph, refine: Refine) -> list[Blocks]:
        """Blocks of H after each stage of the backbone, whose features pass through ``refine``; the last are final.

        A backbone that takes crystals gets molecules as crystals without images. H0, which a network may correct, is
        part of them.
        """
        if self.views_crystals:
            of_edges = self.backbone.stages(as_crystals(graph), refine)
            results = [by_site(blocks["edge"], graph) for blocks in of_edges]
        else:
            results = self.backbone.stages(graph, refine)
        return results if self.h0 is None else [add_h0(blocks, graph, self.h0) for blocks in results]

    @torch.inference_mode()
    def hamiltonian(
        self,
        numbers: Int[np.ndarray, " atoms"] | Int[Tensor, " atoms"],
        positions: Float[np.ndarray, "atoms 3"] | Float[Tensor, "atoms 3"],
        lattice: Float[np.ndarray, "3 3"] | Float[Tensor, "3 3"] | None = None,
        edges: Int[np.ndarray, "edges 5"] | Int[Tensor, "edges 5"] | None = None,
    ) -> Float[Tensor, "n n"] | list[Inexact[np.ndarray, "_ _"]]:
        """H of one molecule or crystal, in the unit and the orbital order of the files of its basis.

        Args:
            numbers: atomic numbers.
            positions: angstrom.
            lattice: only of a crystal; rows are lattice vectors, angstrom.
            edges: only of a crystal; rows [Rx, Ry, Rz, i, j] with atoms counted from 0: atom i in cell 0 and atom j
                in cell R. They are also the edges of the graph: pass all pairs that have a block, as in training.

        Returns:
            For a molecule the dense symmetric matrix (hartree and PySCF's order for QH9), on the device of the model;
            it is the symmetric part of what a network predicts for both orders of a pair. For a
            crystal a list of arrays, the block of each edge with shape (orbitals of i, orbitals of j) (eV and
            OpenMX's order for the data of DeepH-E3); with spin the blocks are complex, rows and columns have first
            all orbitals with spin up and then all with spin down.

        Raises:
            BasisError: an element outside the model's basis.
            DataError: a crystal for a network of molecules or vice versa, values that are no numbers or not finite,
                shapes that do not agree, atoms at the same place, a lattice without a volume, or edges to atoms that
                do not exist, repeated edges and edges whose reversed edge is missing.
        """
        periodic = self.basis.periodic
        name = "crystal" if periodic else "molecule"
        if (lattice is not None, edges is not None) != (periodic, periodic):
            advice = "give lattice and edges, too" if periodic else "give neither lattice nor edges"
            raise DataError(f"this {self.backbone.label} is a network of {name}s: {advice}")
        parameter = next(self.parameters())
        z = _integers(_numeric(numbers, name, "atomic numbers"), name, "atomic number")
        x = _numeric(positions, name, "positions").astype(np.float64)
        if not periodic:
            check_positions(z, x, name, MINIMUM_DISTANCE)
            self.basis.check(z, name, trained=True)
            graph = molecule_graph(z, x, self.basis, matrices=self._h0_of(z, x), dtype=parameter.dtype)
            blocks = self._predicted(graph, parameter)
            matrix = assemble_matrix(blocks["self"], blocks["edge"], z, self.basis)
            return (matrix + matrix.T) / 2
        cell = _numeric(lattice, name, "lattice vectors").astype(np.float64)
        pairs = _integers(_numeric(edges, name, "edges"), name, "entry of the edges")
        _check_crystal(z, x, cell, pairs)
        self.basis.check(z, name, trained=True)
        graph = crystal_graph(z, x, cell, pairs, self.basis, dtype=parameter.dtype)
        _check_distances(graph)
        edge_index = graph.edge_index.numpy()
        entries = cut_padding(
            self._predicted(graph, parameter)["edge"].cpu().numpy(), edge_index, z, self.basis
        )
        starts = block_starts(edge_index, z, self.basis)
        shapes = self.basis.sizes[z][edge_index].T
        return [
            part.reshape(shape) for part, shape in zip(np.split(entries, starts[1:-1]), shapes, strict=True)
        ]

    def outside_training(
        self,
        numbers: Int[np.ndarray, " atoms"],
        positions: Float[np.ndarray, "atoms 3"],
        lattice: Float[np.ndarray, "3 3"] | None = None,
        edges: Int[np.ndarray, "edges 5"] | None = None,
    ) -> list[str]:
        """What of a structure lies outside of the training, one phrase each; empty: nothing, or nothing is known.

        The arguments are those of `hamiltonian`.
        """
        if self.trained_range is None:
            return []
        if lattice is None or edges is None:
            pairs = np.stack(np.nonzero(~np.eye(len(numbers), dtype=bool)))
            lengths = np.linalg.norm(positions[pairs[0]] - positions[pairs[1]], axis=1)
        else:
            lengths = edge_lengths(positions, lattice, edges)
            pairs, lengths = edges[lengths > 0, 3:].T, lengths[lengths > 0]
        return self.trained_range.outside(numbers, pairs, lengths, sizes=lattice is None)

    def initial_density(self, mol: Any) -> Float[np.ndarray, "n n"]:
        """Density matrix of the predicted H of a ``pyscf.gto.Mole``, for ``mf.kernel(dm0=...)``.

        Args:
            mol: a neutral closed-shell molecule in def2-SVP with spherical functions; atoms and orbitals in any
                order, coordinates in any unit.

        Returns:
            Density matrix for RKS or RHF, float64, in the orbital order of ``mol``.

        Raises:
            BasisError: another basis, cartesian functions, an ECP, ghost atoms, unknown elements.
            DataError: a network of crystals, a charge, open shells, atoms at the same place, or ``mol`` is not built.
            MissingExtraError: PySCF is not installed.
        """
        require("pyscf")
        from tracegrad.physics.molecules.guess import initial_density  # PySCF takes seconds to load

        return initial_density(self, mol)

    def _h0_of(self, numbers: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        if self.h0 is None:
            return {}
        require("pyscf")
        from tracegrad.physics.molecules.h0 import molecule_h0  # PySCF takes seconds to load

        return {"h0": molecule_h0(self.h0, numbers, positions)}

    def _predicted(self, graph: HamiltonianGraph, like: Tensor) -> Blocks:
        return self(collate([graph]).to(like.device), traces=False).blocks


def _numeric(values: Any, name: str, what: str) -> np.ndarray:
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: the {what} do not make an array of numbers") from error
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name}: the {what} must be numbers, not {array.dtype.name}")
    return array


def _integers(values: np.ndarray, name: str, what: str) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN and too large numbers compare unequal below
        integers = values.astype(np.int64)
    for value in values[values != integers].tolist()[:1]:
        raise DataError(f"{name}: {what} {value} is not whole")
    return integers


def _check_crystal(
    numbers: np.ndarray, positions: np.ndarray, lattice: np.ndarray, edges: np.ndarray
) -> None:
    """Raise `DataError` unless the arrays describe a crystal, see `HamiltonianModel.hamiltonian`."""
    atoms = numbers.size
    if not atoms or not edges.size or edges.shape != (len(edges), 5):
        raise DataError(
            "crystal: at least one atom and edges of shape (edges, 5), at least one, are needed, "
            f"not {atoms} atoms and edges of shape {edges.shape}"
        )
    for what, array, shape in (
        ("atomic numbers", numbers, (atoms,)),
        ("positions", positions, (atoms, 3)),
        ("lattice vectors", lattice, (3, 3)),
    ):
        if array.shape != shape:
            raise DataError(f"crystal: the {what} have shape {array.shape}; {shape} is needed")
        if not np.isfinite(array).all():
            raise DataError(f"crystal: one of the {what} is not a finite number")
    if abs(np.linalg.det(lattice)) <= SMALLEST_VOLUME_RATIO * np.linalg.norm(lattice, axis=1).prod():
        raise DataError(
            "crystal: the lattice vectors span no volume; give three independent rows, for a layer with a vacuum"
        )
    outside = np.flatnonzero(((edges[:, 3:] < 0) | (edges[:, 3:] >= atoms)).any(1))
    if len(outside):
        raise DataError(
            f"crystal: the edge [Rx, Ry, Rz, i, j] = {edges[outside[0]].tolist()} names an atom that does not exist; "
            f"atoms are counted from 0 to {atoms - 1}"
        )


def _check_distances(graph: HamiltonianGraph) -> None:
    """Raise `DataError` if an edge of a crystal joins two atoms at the same place."""
    distances = graph.vectors.norm(dim=1).masked_fill(is_on_site(graph, "edge"), torch.inf)
    edge = int(distances.argmin())
    if distances[edge] < MINIMUM_DISTANCE:
        i, j = graph.edge_index[:, edge].tolist()
        raise DataError(
            f"crystal: atoms {i} and {j} in cell {graph.cells[edge].tolist()} are {distances[edge]:.3f} angstrom "
            "apart; are the coordinates in angstrom, and the atoms of the edges counted from 0?"
        )


def _without_tracegrad(feature_irreps, basis: OrbitalBasis) -> TraceGrad:
    return TraceGrad(feature_irreps, basis, trace=False, grad=False)

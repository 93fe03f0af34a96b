"""The network: a backbone with TraceGrad, from a graph to blocks of H and traces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor, nn

from tracegrad.errors import ConfigError, DataError
from tracegrad.extras import require
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.blocks import assemble_matrix, block_starts, cut_blocks, cut_padding
from tracegrad.hamiltonian.crystal_view import as_crystals, by_site
from tracegrad.hamiltonian.geometry import check_positions
from tracegrad.hamiltonian.graph import HamiltonianGraph, collate, crystal_graph, molecule_graph
from tracegrad.hamiltonian.h0 import DATA, add_h0, check_h0
from tracegrad.hamiltonian.neighbours import edge_lengths
from tracegrad.hamiltonian.traces import BlockTraces
from tracegrad.hamiltonian.trained_range import TrainedRange
from tracegrad.model.derivative import blocks_along
from tracegrad.model.inputs import (
    MINIMUM_DISTANCE,
    check_crystal,
    check_distances,
    displacements,
    h0_entries,
    integers,
    numeric,
)
from tracegrad.nn.interface import Backbone, Blocks, ComponentFirstFeature, Refine
from tracegrad.nn.invariant.tracegrad import TraceGrad


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
        h0: name of the H0 that the network corrects (`tracegrad.hamiltonian.h0`); None: it predicts H.

    Attributes:
        trained_range: elements, sizes and distances of its training; None: unknown, as in files of earlier versions.

    Raises:
        ConfigError: a network that takes only molecules, and a basis of crystals, or that knows no spin, and a
            collinear basis; an unknown H0, or one of molecules for crystals or vice versa.
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
        if backbone.basis.collinear and not backbone.collinear:
            raise ConfigError(
                f"{backbone.label} does not tell the spins of basis.collinear=true apart; choose model=deeph_e3, or "
                "train a network for each spin (data.spin=up, basis.collinear=false)"
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
        *,
        spin: str | None = None,
        h0: Sequence[Inexact[np.ndarray, "_ _"]] | None = None,
    ) -> Float[Tensor, "n n"] | list[Inexact[np.ndarray, "_ _"]]:
        """H of one molecule or crystal, in the unit and the orbital order of the files of its basis.

        Args:
            numbers: atomic numbers.
            positions: angstrom.
            lattice: only of a crystal; rows are lattice vectors, angstrom.
            edges: only of a crystal; rows [Rx, Ry, Rz, i, j] with atoms counted from 0: atom i in cell 0 and atom j
                in cell R. They are also the edges of the graph: pass all pairs that have a block, as in training.
            spin: of a network for both spins of collinear calculations, "up" or "down": which H is meant.
            h0: of a network with ``h0="data"``: the blocks of H0 for the edges, in the form and unit of the result.

        Returns:
            For a molecule the dense symmetric matrix (hartree and PySCF's order for QH9), on the device of the model;
            it is the symmetric part of what a network predicts for both orders of a pair. For a
            crystal a list of arrays, the block of each edge with shape (orbitals of i, orbitals of j) (eV and
            OpenMX's order for the data of DeepH-E3); with spin the blocks are complex, rows and columns have first
            all orbitals with spin up and then all with spin down.

        Raises:
            BasisError: an element outside the model's basis.
            DataError: a crystal for a network of molecules or vice versa, a spin that is missing or that the network
                does not have, an H0 that is missing, that the network does not correct or that does not fit the
                edges, values that are no numbers or not finite, shapes that do not agree, atoms at the same
                place, a lattice without a volume, or edges to atoms that do not exist, repeated edges and edges whose
                reversed edge is missing.
        """
        if (h0 is not None) != (self.h0 == DATA):
            raise DataError(
                "this network predicts H - H0 with H0 of the data; give h0=, its blocks for the edges, too"
                if self.h0 == DATA
                else "h0 is given, but this network takes none from the data (model.h0=data); leave it out"
            )
        graph = self._graph(numbers, positions, lattice, edges, spin, h0)
        return self._in_files(self._predicted(graph), graph)

    def hamiltonian_derivative(
        self,
        numbers: Int[np.ndarray, " atoms"] | Int[Tensor, " atoms"],
        positions: Float[np.ndarray, "atoms 3"] | Float[Tensor, "atoms 3"],
        lattice: Float[np.ndarray, "3 3"] | Float[Tensor, "3 3"] | None = None,
        edges: Int[np.ndarray, "edges 5"] | Int[Tensor, "edges 5"] | None = None,
        *,
        along: Float[np.ndarray, "count atoms 3"] | Float[Tensor, "count atoms 3"] | None = None,
        spin: str | None = None,
    ) -> Float[Tensor, "*displacements n n"] | list[Inexact[np.ndarray, "*displacements _ _"]]:
        """dH/dR of one molecule or crystal, the exact derivative of what `hamiltonian` returns.

        An atom of a crystal moves together with its images in all cells: these are phonons at the zone centre; for
        others take a supercell. The edges stay the same.

        The derivative is as exact as rounding in the dtype of the model lets it be; ``model.double()`` gives all
        digits. Where features vanish by symmetry their norms have kinks, whose slope counts as 0, the mean of both
        sides. A DeepH-2-style network with ``activation="s2"`` depends slightly on the directions of the axes across
        each edge, which its grid does not keep; its derivative is the one at which these axes follow the edge
        without rotating about it. All other networks do not depend on them.

        Args:
            numbers, positions, lattice, edges, spin: as for `hamiltonian`.
            along: displacements of all atoms, such as the patterns of phonons: returned is, for each of them, sum
                over atoms a and directions x of along[a, x] dH/dR_ax. None: each atom along x, y and z. Each
                displacement takes the time of seven to nine predictions on a CPU, see docs/derivatives.md.

        Returns:
            For a molecule a tensor of shape (atoms, 3, n, n), symmetric in the last two, or (count, n, n); for a
            crystal for each edge an array of shape (atoms, 3, orbitals of i, orbitals of j), or (count, orbitals of
            i, orbitals of j). Hartree or eV, as of `hamiltonian`, per angstrom times the unit of ``along``.

        Raises:
            BasisError, DataError: as for `hamiltonian`; displacements of another shape or that are not finite; a
                network with ``h0="data"``, because dH0/dR is not in the data.
        """
        if self.h0 == DATA:
            raise DataError(
                "this network predicts H - H0 with H0 of the data, whose derivative is not known; dH/dR needs a "
                "network that was trained with model.h0=null"
            )
        graph = self._graph(numbers, positions, lattice, edges, spin)
        atoms = len(graph.numbers)
        directions = displacements(along, atoms, self._kind)
        lead = (atoms, 3) if along is None else (len(directions),)
        parts = [self._in_files(self._moved(graph, one), graph) for one in directions]
        if not self.basis.periodic:
            return torch.stack(parts).unflatten(0, lead)  # type: ignore[arg-type]
        return [np.stack(of_edge).reshape(*lead, *of_edge[0].shape) for of_edge in zip(*parts, strict=True)]

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

    @property
    def _kind(self) -> str:
        return "crystal" if self.basis.periodic else "molecule"

    def _graph(
        self, numbers: Any, positions: Any, lattice: Any, edges: Any, spin: str | None, h0: Any = None
    ) -> HamiltonianGraph:
        """The graph of arrays that a user has passed, checked."""
        name, periodic, dtype = self._kind, self.basis.periodic, next(self.parameters()).dtype
        if (lattice is not None, edges is not None) != (periodic, periodic):
            advice = "give lattice and edges, too" if periodic else "give neither lattice nor edges"
            raise DataError(f"this {self.backbone.label} is a network of {name}s: {advice}")
        if spin not in self.basis.channels:
            has = (
                "H of two spins; give spin='up' or 'down'" if self.basis.collinear else "one H; leave it out"
            )
            raise DataError(f"spin is {spin!r}, but this network predicts {has}")
        z = integers(numeric(numbers, name, "atomic numbers"), name, "atomic number")
        x = numeric(positions, name, "positions").astype(np.float64)
        if not periodic:
            check_positions(z, x, name, MINIMUM_DISTANCE)
            self.basis.check(z, name, trained=True)
            return molecule_graph(z, x, self.basis, matrices=self._h0_of(z, x), dtype=dtype)
        cell = numeric(lattice, name, "lattice vectors").astype(np.float64)
        pairs = integers(numeric(edges, name, "edges"), name, "entry of the edges")
        check_crystal(z, x, cell, pairs)
        self.basis.check(z, name, trained=True)
        entries = None if h0 is None else h0_entries(h0, z, pairs, self.basis)
        graph = crystal_graph(z, x, cell, pairs, self.basis, h0=entries, spin=spin, dtype=dtype)
        check_distances(graph)
        return graph

    def _h0_of(self, numbers: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        if self.h0 is None:
            return {}
        require("pyscf")
        from tracegrad.physics.molecules.h0 import molecule_h0  # PySCF takes seconds to load

        return {"h0": molecule_h0(self.h0, numbers, positions)}

    def _predicted(self, graph: HamiltonianGraph) -> Blocks:
        device = next(self.parameters()).device
        return self(collate([graph]).to(device), traces=False).blocks

    def _moved(self, graph: HamiltonianGraph, displacement: np.ndarray) -> Blocks:
        """Derivatives of the blocks of a graph along a displacement of its atoms."""
        batch = collate([graph]).to(next(self.parameters()).device)
        slopes = {"positions": torch.from_numpy(displacement).to(batch.positions)}
        if self.basis.periodic:
            dst, src = graph.edge_index.numpy()
            slopes["vectors"] = torch.from_numpy(displacement[src] - displacement[dst]).to(batch.vectors)
        if self.h0 is not None:
            from tracegrad.physics.molecules.h0 import molecule_h0_derivative  # as in `_h0_of`

            numbers, positions = graph.numbers.numpy(), graph.positions.numpy().astype(np.float64)
            h0 = torch.from_numpy(molecule_h0_derivative(self.h0, numbers, positions, displacement))
            of_blocks = cut_blocks(h0.to(graph.positions), numbers, self.basis)
            slopes |= {
                f"h0_{site}": x.to(batch.positions)
                for site, x in zip(("self", "edge"), of_blocks, strict=True)
            }
        return blocks_along(lambda moved: self(moved, traces=False).blocks, batch, slopes)

    def _in_files(
        self, blocks: Blocks, graph: HamiltonianGraph
    ) -> Float[Tensor, "n n"] | list[Inexact[np.ndarray, "_ _"]]:
        """Blocks of one structure as its files have H, see `hamiltonian`."""
        numbers = graph.numbers.numpy()
        if not self.basis.periodic:
            matrix = assemble_matrix(blocks["self"], blocks["edge"], numbers, self.basis)
            return (matrix + matrix.T) / 2
        edge_index = graph.edge_index.numpy()
        entries = cut_padding(blocks["edge"].cpu().numpy(), edge_index, numbers, self.basis)
        starts = block_starts(edge_index, numbers, self.basis)
        shapes = self.basis.sizes[numbers][edge_index].T
        return [
            part.reshape(shape) for part, shape in zip(np.split(entries, starts[1:-1]), shapes, strict=True)
        ]


def _without_tracegrad(feature_irreps, basis: OrbitalBasis) -> TraceGrad:
    return TraceGrad(feature_irreps, basis, trace=False, grad=False)

"""Where the features of edges and nodes stand in rows."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from tracegrad.ops.errors import OperatorArgumentError
from tracegrad.ops.named_table import NamedTable

RowSlot = tuple[int, int]  # position among the tensors of rows, and first column there
ACTIVATIONS = (None, "gate", "silu", "tanh")


@dataclass(frozen=True)
class RowFeature:
    """Where one feature of one irrep stands in the rows, and how it gets there.

    Args:
        slots: slot of the components -m and m for each |m| = 0 .. l. A component without a slot (None) is left out
            by `to_rows` and is zero for `from_rows`.
        channels: of the feature.
        rotation: position among the rotations of those from the frames of the edges to the frame of the feature; None
            if both frames are the same.
        endpoints: empty for a feature of edges. For a feature of nodes, positions among the endpoints of the edges:
            the channels of the nodes at all of them stand side by side in the rows.
        activation: for `from_rows` only, of the numbers y in the rows: None, or multiplied by a scale for each edge
            and channel "gate" (y times the sigmoid of a gate), "silu" or "tanh" (both of degree 0 only).
        scale: first column of the scales, with an activation.
        norm: constant factor, with an activation.
        gate: slot of the gates; None if these are zero.
    """

    slots: tuple[RowSlot | None, ...]
    channels: int
    rotation: int | None = None
    endpoints: tuple[int, ...] = ()
    activation: str | None = None
    scale: int = 0
    norm: float = 1.0
    gate: RowSlot | None = None

    @property
    def degree(self) -> int:
        return len(self.slots) - 1

    @property
    def dim(self) -> int:
        """Number of components."""
        return 2 * len(self.slots) - 1

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.channels * max(len(self.endpoints), 1)

    def places(self) -> list[tuple[int, int, int] | None]:
        """For each component -l .. l the tensor of rows, the row in it (0 or 1), and the first column."""
        found: list[tuple[int, int, int] | None] = [None] * self.dim
        for m, slot in enumerate(self.slots):
            if slot is not None:
                for row, component in enumerate((-m, m) if m else (0,)):
                    found[self.degree + component] = (slot[0], row, slot[1])
        return found


@dataclass(frozen=True)
class RowLayout(NamedTable):
    """All features of some rows, which together fill all columns of the rows and of the scales.

    Args:
        shapes: of the rows without the edges: (1 or 2, columns).
        features: in the order in which operators take or return them.

    Raises:
        OperatorArgumentError: a slot that does not exist, or a column that belongs to no feature or to two.
    """

    shapes: tuple[tuple[int, int], ...]
    features: tuple[RowFeature, ...]

    def __post_init__(self) -> None:
        taken: dict[int, list[tuple[int, int]]] = {row: [] for row in range(len(self.shapes))}
        for feature in self.features:
            if feature.activation not in ACTIVATIONS[: 4 if feature.degree == 0 else 2]:
                raise OperatorArgumentError(
                    f"activation {feature.activation!r} of degree {feature.degree}; silu and tanh are for degree 0"
                )
            slots = [(m, slot, feature.width) for m, slot in enumerate(feature.slots)]
            for m, slot, width in [*slots, (0, feature.gate, feature.channels)]:
                if slot is None:
                    continue
                row, first = slot
                if row not in taken or self.shapes[row][0] != (2 if m else 1):
                    raise OperatorArgumentError(
                        f"slot {slot} of |m| = {m} does not exist; the rows have the shapes {list(self.shapes)}"
                    )
                taken[row].append((first, first + width))
        for row, (_, columns) in enumerate(self.shapes):
            _check_filled(f"row {row}", taken[row], columns)
        _check_filled("the scales", [(f.scale, f.scale + f.width) for f in self.scaled], self.scales)
        super().__post_init__()

    @property
    def scaled(self) -> list[RowFeature]:
        """The features with an activation."""
        return [feature for feature in self.features if feature.activation]

    @property
    def scales(self) -> int:
        """Number of columns of the scales."""
        return sum(feature.width for feature in self.scaled)

    @property
    def rotations(self) -> dict[int, int]:
        """Number of components for each position among the rotations."""
        return {f.rotation: f.dim for f in self.features if f.rotation is not None}

    def new_rows(self, like: Tensor, edges: int) -> list[Float[Tensor, "edges _p _columns"]]:
        """Memory for the rows."""
        return [like.new_empty(edges, *shape) for shape in self.shapes]

    def new_features(self, like: Tensor, edges: int, nodes: int) -> list[Float[Tensor, "_ _m _c"]]:
        """Memory for the features, of edges or of nodes."""
        return [like.new_empty(nodes if f.endpoints else edges, f.dim, f.channels) for f in self.features]


def _check_filled(name: str, intervals: list[tuple[int, int]], columns: int) -> None:
    """Raise `OperatorArgumentError` unless the intervals cover each column once."""
    for (_, end), (start, _) in pairwise([(0, 0), *sorted(intervals), (columns, columns)]):
        if start != end:
            owners = "two features" if start < end else "no feature"
            raise OperatorArgumentError(
                f"column {min(start, end)} of {name}, which has {columns}, belongs to {owners}; each needs one"
            )

"""Loading a released network of either code."""

from dataclasses import dataclass
from pathlib import Path

from tracegrad.errors import CheckpointError
from tracegrad.model.network import HamiltonianModel
from tracegrad.weights.checkpoint import read_plain
from tracegrad.weights.released.deeph_e3_folder import (
    DATASET,
    SOURCE,
    WEIGHTS,
    deeph_e3_weights,
    load_deeph_e3_folder,
)
from tracegrad.weights.released.qhnet import KIND, load_released_qhnet
from tracegrad.weights.released.state import released_state


@dataclass(frozen=True)
class ReleasedNetwork:
    """A released network: the model in evaluation mode, the file of its weights, and its name in reports."""

    model: HamiltonianModel
    file: Path
    name: str


def load_released(
    source: str | Path, legacy_e3nn: bool = True, *, edge_chunk: int | None = None
) -> ReleasedNetwork:
    """QHNet from a checkpoint of the QH9 benchmark (.pt), or DeepH-E3 from its model folder.

    Args:
        source: the checkpoint, the folder, or a file of weights in the folder.
        legacy_e3nn, edge_chunk: options for DeepH-E3, see `load_deeph_e3_folder`.

    Raises:
        CheckpointError: ``source`` is neither, or cannot be loaded.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file or directory; give a released checkpoint of QHNet (.pt) or the model folder of a "
            "DeepH-E3"
        )
    if (path / "checkpoints").is_dir():
        raise CheckpointError(
            f"{path}: is a run directory of TraceGrad, not a released network; give it as run={path}, or load it "
            "with tracegrad.load_model"
        )
    if path.is_dir() or (path.parent / SOURCE / DATASET).is_file():
        weights = deeph_e3_weights(path)
        model = load_deeph_e3_folder(weights, legacy_e3nn, edge_chunk=edge_chunk)
        name = weights.parent.resolve().name
        return ReleasedNetwork(model, weights, name if weights.name == WEIGHTS else f"{name}_{weights.stem}")
    try:
        state = released_state(read_plain(path), KIND)
        if any(name.startswith("node_update_blocks.") for name in state):
            raise CheckpointError(
                f"the weights of a DeepH-E3 without what describes them; give its model folder, which has {SOURCE}"
            )
        return ReleasedNetwork(load_released_qhnet(state), path, path.stem)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error

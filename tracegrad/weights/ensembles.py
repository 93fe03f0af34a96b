"""Loading several networks as an ensemble."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tracegrad.errors import ConfigError
from tracegrad.model.ensemble import HamiltonianEnsemble
from tracegrad.weights.plugins import allow_plugins
from tracegrad.weights.saved import build_network, checkpoint_file, read_network


def load_ensemble(sources: Sequence[str | Path], *, plugins: Iterable[str] = ()) -> HamiltonianEnsemble:
    """The networks of run directories, checkpoints and model files as an ensemble.

    Args:
        sources: each as for `load_model`.
        plugins: as for `load_model`.

    Raises:
        CheckpointError: one cannot be loaded, see `load_model`.
        ConfigError: no sources, the same file twice, or networks that predict Hamiltonians of another basis or
            functional than the first.
    """
    allow_plugins(plugins)
    files = [checkpoint_file(source) for source in sources]
    places = [file.resolve() for file in files]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError(f"{sources[number]} is given twice; each network counts once")
    members, functionals = [], []
    for file in files:
        saved = read_network(file)
        members.append(build_network(saved, file))
        functionals.append(str(saved.data.get("functional", "unknown")))
    known = {name: file for name, file in zip(functionals, files, strict=True) if name != "unknown"}
    if len(known) > 1:
        (one, first), (other, second), *_ = known.items()
        raise ConfigError(
            f"{first} was trained on Hamiltonians of {one}, and {second} on those of {other}; their mean is that of "
            "neither: give networks of one functional"
        )
    return HamiltonianEnsemble(members)

"""The equivariance error of a network at the end of a test, with a table and a figure."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer

from callbacks.gather import gathered
from callbacks.trainer_parts import first_dataset, hamiltonian_module, stop_bar
from tracegrad.data.loading.hamiltonian_module import evenly_spaced
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.graph import collate
from tracegrad.metrics.columns import Column, log_name
from tracegrad.metrics.equivariance import equivariance_errors, random_quaternions
from tracegrad.plots.equivariance import equivariance_figure
from tracegrad.plots.style import save
from tracegrad.system.text_files import write_table
from tracegrad.units import MEV

PANEL = "equivariance error under rotations, 0 up to rounding if exact"
STAGES = ("", "H1")  # of a network that corrects its first H1, H1 comes second


class EquivarianceError(Callback):
    """Logs ``test/equivariance_ANGLE``, the mean of |U H(x) U^dagger - H(R x)| (meV) over random rotations R.

    R is uniform over all rotations by at most ANGLE degrees about any axis, the same ones for every network. Networks
    with two stages also have ``test/equivariance_h1_ANGLE`` of the first one. The network computes in double
    precision, so that the error of an equivariant network is about 1e-10 meV and what is larger is not rounding.
    Files in the trainer's directory: ``equivariance.csv`` (each structure and rotation) and
    ``figures/equivariance.png``.

    Args:
        structures: number of molecules or crystals of the first test set, evenly spread; 0: none.
        rotations: number of rotations of each of them for each angle.
        angles: largest angles in whole degrees, 1 to 180.

    Attributes:
        columns: what tables say about these metrics, after a test.

    Raises:
        ConfigError: other numbers or angles.
    """

    def __init__(
        self,
        structures: int = 2,
        rotations: int = 2,
        angles: Sequence[int] = (10, 36, 90, 180),
    ):
        for name, value, least in (("structures", structures, 0), ("rotations", rotations, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(
                    f"callbacks.equivariance.{name} is {value!r}; give a whole number >= {least}"
                )
        if not angles or not all(isinstance(angle, int) and 1 <= angle <= 180 for angle in angles):
            raise ConfigError(
                f"callbacks.equivariance.angles is {list(angles)}; give whole degrees from 1 to 180"
            )
        self.structures, self.rotations, self.angles = structures, rotations, tuple(angles)
        self.columns: tuple[Column, ...] = ()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.columns = ()
        dataset = first_dataset(trainer.test_dataloaders)
        count = min(self.structures, len(dataset))
        if not count:
            return
        stop_bar(trainer)
        module = hamiltonian_module(pl_module)
        chosen = evenly_spaced(len(dataset), count).tolist()
        share = chosen[trainer.global_rank :: trainer.world_size]
        samples = (dataset[i] for i in share)
        errors = [(int(sample.sample_id), self._errors(pl_module, sample)) for sample in samples]
        errors = sorted(gathered(trainer, errors), key=lambda entry: entry[0])
        means = np.mean([of_structure for _, of_structure in errors], axis=(0, 3))
        subset = module.test_subsets[0]
        columns = []
        for stage, of_angles in zip(STAGES, means[::-1], strict=False):
            for angle, value in zip(self.angles, of_angles, strict=True):
                key = "_".join(filter(None, ("equivariance", stage.lower(), str(angle))))
                name = " ".join(filter(None, (stage, f"up to {angle} deg")))
                columns.append(Column(key, name, lower_is_better=None, panel=PANEL, digits=4))
                logged = torch.tensor(value, dtype=torch.float64)
                pl_module.log(log_name("test", key, subset), logged, sync_dist=False)
        self.columns = tuple(columns)
        if trainer.is_global_zero:
            self._write(Path(trainer.default_root_dir), errors, means, module.sample_name)

    def _errors(self, pl_module: LightningModule, sample) -> Float[np.ndarray, "stages angles rotations"]:
        """Errors of one structure, meV."""
        model = deepcopy(hamiltonian_module(pl_module).model).double().eval()
        graph = collate([sample]).to(pl_module.device)
        for name in ("positions", "vectors"):
            if name in graph:
                graph[name] = graph[name].double()
        random = np.random.default_rng(0)
        quaternions = np.concatenate(
            [random_quaternions(self.rotations, angle, random) for angle in self.angles]
        )
        turns = torch.from_numpy(quaternions).to(pl_module.device)
        with torch.autocast(pl_module.device.type, enabled=False):
            errors = equivariance_errors(model, graph, turns) * MEV[model.basis.unit]
        return errors.cpu().numpy().reshape(len(errors), len(self.angles), self.rotations)

    def _write(
        self,
        directory: Path,
        errors: Sequence[tuple[int, Float[np.ndarray, "stages angles rotations"]]],
        means: Float[np.ndarray, "stages angles"],
        sample_name: Callable[[int], str],
    ) -> None:
        names = ["h", "h1"][: len(means)]
        rows = [
            (row, sample_name(row), angle, *of_structure[::-1, at, number].tolist())
            for row, of_structure in errors
            for at, angle in enumerate(self.angles)
            for number in range(self.rotations)
        ]
        write_table(directory / "equivariance.csv", ("sample", "name", "largest_angle", *names), rows)
        labels = ["H", "H1 (first stage)"]
        curves = {
            label: dict(zip(self.angles, of_angles.tolist(), strict=True))
            for label, of_angles in zip(labels, means[::-1], strict=False)
        }
        save(equivariance_figure(curves), directory / "figures" / "equivariance.png")

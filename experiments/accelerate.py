"""Measure the DFT acceleration by the network of a finished run."""

from math import isfinite, isnan
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Subset

from callbacks.dft_acceleration import DFTAcceleration
from experiments.settings.configuration import command, plain
from experiments.training.parts import make_trainer, rebuild
from experiments.training.resume_point import check_data
from experiments.training.warning_filter import quiet
from tracegrad.data.loading.datamodule import MoleculeDataset
from tracegrad.errors import ConfigError, TraceGradError
from tracegrad.hamiltonian.graph import collate
from tracegrad.physics.molecules.acceleration_jobs import chosen_rows
from tracegrad.physics.molecules.acceleration_results import SPREAD
from tracegrad.system.text_files import write_json
from tracegrad.weights.checkpoint import check_architecture, load_checkpoint
from tracegrad.weights.ensembles import load_ensemble


@command("accelerate", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Measure the DFT acceleration that the command line asks for."""
    accelerate(config)


def accelerate(config: DictConfig) -> None:
    """Run the SCF calculations of test molecules of a run, print the results and write them.

    ``config`` has the settings of ``conf/accelerate.yaml``.
    """
    plain(config)
    run = Path(str(config.run))
    if config.molecules < 1:
        raise ConfigError(f"molecules is {config.molecules}; at least 1 is needed")
    named = config.checkpoint in ("best", "last")
    checkpoint = run / "checkpoints" / f"{config.checkpoint}.ckpt" if named else Path(config.checkpoint)
    output = Path(config.output or run / f"acceleration_{checkpoint.stem}")
    further = [str(source) for source in config.ensemble]
    # The first is the run's own network: its basis and functional are compared with those of the others.
    members = load_ensemble([checkpoint, *further]).members[1:] if further else []
    acceleration = DFTAcceleration(
        output,
        config.molecules,
        list(config.guesses),
        config.functional,
        config.jobs,
        config.cache,
        config.max_cycle,
        config.gpu,
        config.forces,
        members,
    )
    changes = {"data.path": config.path, "trainer.accelerator": config.accelerator}
    changes = {key: value for key, value in changes.items() if value is not None}
    one_device = {"trainer.devices": 1, "trainer.num_nodes": 1, "trainer.strategy": "auto"}
    setup, parts = rebuild(run, changes | one_device)
    dataset = parts.datamodule.parts["test"]
    if not isinstance(dataset, MoleculeDataset):
        raise ConfigError(f"{run} is a run on crystals; DFT acceleration is for molecules")
    loaded = load_checkpoint(checkpoint)
    if not config.other_data:
        check_data(loaded, parts.fingerprint, checkpoint)
    check_architecture(loaded["state_dict"], parts.module.state_dict(), str(checkpoint))
    parts.module.load_state_dict(loaded["state_dict"])
    parts.module.sample_name = parts.datamodule.sample_name
    rows = chosen_rows(dataset.database, dataset.rows, config.molecules)
    # One molecule per batch, so that the time of a prediction is that of a single molecule.
    chosen = Subset(dataset, np.flatnonzero(np.isin(dataset.rows, rows)).tolist())
    loader = DataLoader(chosen, batch_size=1, collate_fn=collate)
    setup.run_dir = str(output)
    setup.trainer.enable_progress_bar = False
    trainer = make_trainer(setup, [acceleration], [])
    with quiet():
        trainer.test(parts.module, loader, verbose=False)
    if not acceleration.results:
        raise TraceGradError(f"no SCF of the {len(chosen)} molecules could be run; see the warnings above")
    write_json(
        output / "acceleration.json",
        {
            "run": run.name,
            "checkpoint": checkpoint.stem,
            "database": parts.fingerprint["database"],
            "functional": config.functional or parts.fingerprint["functional"],
            "guesses": list(config.guesses),
            "ensemble": [Path(source).name for source in further],
            "metrics": {
                f"test/{name}": value if isfinite(value) else None
                for name, value in acceleration.summary.items()
            },
        },
    )
    show(acceleration, Console(soft_wrap=True, highlight=False))
    print(f"table and figure: {output}")


def show(acceleration: DFTAcceleration, console: Console) -> None:
    """Print a line for each guess, and a summary of what does not depend on the guess."""
    summary, results = acceleration.summary, acceleration.results
    table = Table(box=None, pad_edge=False)
    table.add_column("guess")
    for name in ("achieved ratio", "error-level ratio", "level not reached", "cycles", "core seconds saved"):
        table.add_column(name, justify="right")
    predicted = np.mean([result.prediction.cycles for result in results])
    for guess in acceleration.guesses:
        cycles = np.mean([result.guesses[guess].cycles for result in results])
        table.add_row(
            guess,
            *(_mean_and_spread(summary, f"{name}_ratio_{guess}") for name in ("achieved", "error_level")),
            f"{summary[f'scf_level_not_reached_{guess}']:.0f}",
            f"{predicted:.1f} / {cycles:.1f}",
            f"{summary[f'scf_seconds_saved_{guess}']:.2f}",
        )
    console.print(table)
    one, two = (summary[f"scf_energy_error_{k}"] for k in (1, 2))
    console.print(
        f"{summary['scf_molecules']:.0f} molecules, mean ± sample standard deviation; cycles counted from 0; "
        f"energy error after one and two cycles {one:.3g} and {two:.3g} meV; "
        f"{_of_densities(summary)}"
        f"{_of_ensemble(summary)}"
        f"same state {summary['scf_same_state']:.1%}; SCF runs not converged {summary['scf_not_converged']:.0f}"
    )


def _of_densities(summary: dict[str, float]) -> str:
    if isnan(summary["energy_mae"]):
        return ""
    return (
        f"of the predicted density itself: energy error {summary['energy_mae']:.3g} meV, force error "
        f"{summary['force_mae']:.3g} meV/angstrom ({summary['force_mae_1']:.3g} after one cycle); "
    )


def _of_ensemble(summary: dict[str, float]) -> str:
    if SPREAD not in summary:
        return ""
    return (
        f"spread over the networks {summary[SPREAD]:.3g} meV, its rank correlation with the MAE of H "
        f"{summary[f'{SPREAD}_correlation']:.2f} and with the energy error "
        f"{summary[f'{SPREAD}_energy_correlation']:.2f}; "
    )


def _mean_and_spread(summary: dict[str, float], name: str) -> str:
    spread = summary[f"{name}_std"]
    return f"{summary[name]:.3f}" + ("" if isnan(spread) else f" ± {spread:.3f}")


if __name__ == "__main__":
    main()

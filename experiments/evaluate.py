"""Test the network of a run on any part of its data, or a released network on a database."""

from pathlib import Path
from typing import Any

import lightning
from lightning import Callback
from omegaconf import DictConfig

from callbacks.test_report import TestReport
from experiments.settings.configuration import command, plain
from experiments.training.evaluation import evaluate_checkpoint, measure
from experiments.training.parts import Parts, make_callbacks, make_trainer, rebuild
from experiments.training.released import build_released
from experiments.training.resuming import read_config
from tracegrad.errors import CheckpointError, ConfigError
from tracegrad.reports.comparison import results_table
from tracegrad.reports.results import read_result
from tracegrad.reports.terminal import print_tables
from tracegrad.system.text_files import write_json
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, load_checkpoint

OF_A_RUN = ("best", "last")
METRIC = "callbacks.log_metric.LogMetric"
OF_A_TEST = ("inference_time", "equivariance")


@command("evaluate")
def main(config: DictConfig) -> None:
    """Test the network that the command line names."""
    evaluate(config)


def evaluate(config: DictConfig) -> None:
    """Test a checkpoint of a run directory, or a released one, and write the results.

    ``config`` has the settings of ``conf/evaluate.yaml``.
    """
    _check_callbacks(config)
    plain(config)
    if config.run is not None:
        evaluate_run(config)
    elif config.checkpoint not in OF_A_RUN:
        evaluate_released(config)
    else:
        raise ConfigError(
            "run is needed, or a released checkpoint; give run=DIRECTORY, or checkpoint=PATH (QHNet's .pt file, "
            "DeepH-E3's model folder) with data=NAME"
        )


def evaluate_run(config: DictConfig) -> None:
    """Test a checkpoint of a run of TraceGrad on the data of its training."""
    if config.get("data") is not None:
        raise ConfigError(
            "data= is for released checkpoints; the settings of a run name its data (path=PATH if they were moved)"
        )
    run = Path(config.run)
    named = config.checkpoint in OF_A_RUN
    checkpoint = run / "checkpoints" / f"{config.checkpoint}.ckpt" if named else Path(config.checkpoint)
    if not named and (checkpoint.is_dir() or CHECKPOINT_KEY not in load_checkpoint(checkpoint)):
        raise CheckpointError(
            f"{checkpoint}: is not a checkpoint of a run of TraceGrad; to test a released one leave out run={run} "
            "and give data=NAME"
        )
    output = Path(config.output or run / f"evaluation_{config.part}_{checkpoint.stem}")
    if config.test_path is not None and "test_path" not in read_config(run)["data"]:
        raise ConfigError(f"test_path: the data of {run} are one file; give path=PATH if it was moved")
    setup, parts = rebuild(run, changes(config))
    trainer = prepared(setup, parts, config, output)
    results = evaluate_checkpoint(
        trainer, parts, setup, checkpoint, config.part, other_data=config.other_data
    )
    write_report(trainer, output, results)


def evaluate_released(config: DictConfig) -> None:
    """Test a released network on a database."""
    if config.test_path is not None:
        raise ConfigError("test_path is for run=DIRECTORY; for a released network give data.test_path=PATH")
    setup, parts, origin = build_released(config, changes(config))
    name, label = origin["checkpoint"]["name"], parts.fingerprint["label"]
    output = Path(config.output or Path("runs", "released", f"{name}_{label}_{config.part}"))
    trainer = prepared(setup, parts, config, output)
    results = measure(trainer, parts, setup, config.part, name, 0)
    if trainer.is_global_zero:
        write_json(output / "provenance.json", origin)
    write_report(trainer, output, results | {"released": origin["checkpoint"]})


def changes(config: DictConfig) -> dict[str, Any]:
    """Settings of data and trainer that the command line changes, by dotted key."""
    values = {
        "data.path": config.path,
        "data.test_path": config.test_path,
        "data.eval_batch_size": config.batch_size,
        "trainer.devices": config.devices,
        "trainer.accelerator": config.accelerator,
    }
    return {key: value for key, value in values.items() if value is not None}


def _check_callbacks(config: DictConfig) -> None:
    """Raise `ConfigError` for callbacks that belong to a training."""
    foreign = [
        str(name)
        for name, entry in (config.get("callbacks") or {}).items()
        if name not in OF_A_TEST and (entry or {}).get("_target_") != METRIC
    ]
    if foreign:
        raise ConfigError(
            f"callbacks: {', '.join(sorted(foreign))} belong to a training; a test takes callbacks=appendix_i "
            "(inference times), callbacks=equivariance, metrics of yours (docs/extend-a-metric.md), or none"
        )


def prepared(setup: DictConfig, parts: Parts, config: DictConfig, output: Path) -> lightning.Trainer:
    """The trainer that tests ``config.part`` and writes tables and figures into ``output``.

    Args:
        setup: settings of the run; its ``run_dir`` becomes ``output``. Its callbacks are not used.
        config: settings of `experiments.evaluate`, whose callbacks are used.

    Raises:
        ConfigError: the data have no such part.
    """
    part = config.part
    if part not in parts.datamodule.parts:
        raise ConfigError(f"part is {part!r}; choose one of {list(parts.datamodule.parts)}")
    setup.run_dir = str(output)
    reports: list[Callback] = [TestReport(output)]
    if not parts.module.model.basis.periodic:
        from callbacks.orbital_metrics import OrbitalMetrics  # here, because crystals do not need PySCF

        reports.append(OrbitalMetrics(output))
    reports += make_callbacks(config) if config.get("callbacks") else []
    trainer = make_trainer(setup, reports, [])
    parts.datamodule.trainer = trainer
    return trainer


def write_report(trainer: lightning.Trainer, output: Path, results: dict[str, Any]) -> None:
    """Write and print the results of a test."""
    if trainer.is_global_zero:
        write_json(output / "evaluation.json", results)
        print_tables(results_table([read_result(output / "evaluation.json")]))
        print(f"tables and figures: {output}")


if __name__ == "__main__":
    main()

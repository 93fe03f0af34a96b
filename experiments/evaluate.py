"""Test a trained run again, on any part of its data."""

from pathlib import Path

from lightning import Callback
from omegaconf import DictConfig

from callbacks.orbital_metrics import OrbitalMetrics
from callbacks.test_report import TestReport
from experiments.configuration import command, plain
from experiments.runs import evaluate_checkpoint, make_trainer, rebuild, write_json
from tracegrad.errors import ConfigError
from tracegrad.reports.comparison import results_table
from tracegrad.reports.terminal import print_tables
from tracegrad.results import read_result


@command("evaluate")
def main(config: DictConfig) -> None:
    """Evaluate a checkpoint of a run directory."""
    plain(config)
    run = Path(config.run)
    named = config.checkpoint in ("best", "last")
    checkpoint = run / "checkpoints" / f"{config.checkpoint}.ckpt" if named else Path(config.checkpoint)
    output = Path(config.output or run / f"evaluation_{config.part}_{checkpoint.stem}")
    changes = {
        "data.path": config.path,
        "data.eval_batch_size": config.batch_size,
        "trainer.devices": config.devices,
        "trainer.accelerator": config.accelerator,
    }
    setup, parts = rebuild(run, {key: value for key, value in changes.items() if value is not None})
    if config.part not in parts.datamodule.parts:
        raise ConfigError(f"part is {config.part!r}; choose one of {list(parts.datamodule.parts)}")
    setup.run_dir = str(output)
    reports: list[Callback] = [TestReport(output)]
    if not parts.module.model.backbone.periodic:
        reports.append(OrbitalMetrics(output))
    trainer = make_trainer(setup, reports, [])
    parts.datamodule.trainer = trainer
    results = evaluate_checkpoint(
        trainer, parts, setup, checkpoint, config.part, other_data=config.other_data
    )
    if trainer.is_global_zero:
        write_json(output / "evaluation.json", results)
        print_tables(results_table([read_result(output / "evaluation.json")]))
        print(f"tables and figures: {output}")


if __name__ == "__main__":
    main()

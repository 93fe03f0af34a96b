"""Train a run in its directory: start or resume it, test it, and write its results and figures."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig

from callbacks.first_step import AfterFirstStep
from callbacks.last_checkpoint import TrainingStopped
from experiments.training.evaluation import evaluate_checkpoint
from experiments.training.loggers import log_results, make_loggers
from experiments.training.parts import build, make_callbacks, make_trainer
from experiments.training.preemption import end_by_signal, end_on_requeue_signal
from experiments.training.provenance import provenance
from experiments.training.rank import process_rank
from experiments.training.resume_point import check_data, resume_point
from experiments.training.resuming import CONFIG, find_run, is_outgrown, read_config
from experiments.training.run_length import is_longer, length_of
from experiments.training.run_owner import owned
from experiments.training.warm_start import warm_start
from experiments.training.warning_filter import quiet
from tracegrad.errors import TrainingError
from tracegrad.plots.learning_curves import RunCurves, learning_curves
from tracegrad.plots.style import save
from tracegrad.reports.metrics_file import read_metrics
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.system.text_files import write_json, write_text

METRICS = "metrics.csv"


def train(config: DictConfig, values: dict[str, Any]) -> None:
    """Train a run, or resume it, and test it; writes ``results.json`` unless ``test=false``.

    Raises:
        InUseError: another training runs in the directory; nothing in it was changed.
        SystemExit: a signal has ended the training; the status is 128 + its number, or 0 if SLURM starts it again.
    """
    end_on_requeue_signal()
    directory = Path(config.run_dir)
    if _is_finished(directory, values, config.resume):
        return
    with owned(directory):
        # The training that owned the directory before may have finished the run while this one waited.
        if not _is_finished(directory, values, config.resume):
            _train(config, values, directory)


def _is_finished(directory: Path, values: dict[str, Any], resume: str) -> bool:
    """Whether the run has results for the length that is asked for; if so, say where they are."""
    if not (directory / RESULTS).exists():
        return False
    find_run(directory, values, resume, say=False)
    if is_outgrown(directory, length_of(values)):
        return False
    if process_rank() == 0:
        print(
            f"{directory} is finished; its results are in {directory / RESULTS}{_other_length(directory, values)}"
        )
    return True


def _other_length(directory: Path, values: dict[str, Any]) -> str:
    """What to add to the message if the finished run was longer than what is asked for now; else nothing."""
    requested, recorded = length_of(values), length_of(read_config(directory))
    if not is_longer(requested, recorded):
        return ""
    limits = ", ".join(f"{key}={value}" for key, value in recorded.items() if value not in (None, -1))
    return f" and are those of {limits}; for a shorter training choose another name or run_dir"


def _train(config: DictConfig, values: dict[str, Any], directory: Path) -> None:
    exists = find_run(directory, values, config.resume)
    parts = build(config, values)
    resumed = resume_point(directory) if exists else None
    if resumed:
        checkpoint, content = resumed
        check_data(content, parts.fingerprint, checkpoint)
        if process_rank() == 0:
            print(f"resuming from {checkpoint} (step {content['global_step']})", flush=True)
    origin = provenance() | {"data": parts.fingerprint}
    if config.data.dtype == "float64":
        # Lightning does so after it has loaded the weights of a checkpoint, which rounds them to single precision.
        parts.module.double()
    origin |= warm_start(parts.module.model, config.init_from, directory, resumed=resumed is not None)

    def record() -> None:
        (directory / RESULTS).unlink(missing_ok=True)
        write_text(directory / CONFIG, yaml.safe_dump(values, sort_keys=False))
        write_json(directory / "provenance.json", origin)

    # Not before the first step: a start that fails leaves the directory as it was.
    recorder = AfterFirstStep(record)
    callbacks = [recorder, *make_callbacks(config)]
    if resumed is None and process_rank() == 0:
        (directory / METRICS).unlink(missing_ok=True)
    loggers = make_loggers(config, values, origin)
    trainer = make_trainer(config, callbacks, loggers)
    try:
        with quiet():
            trainer.fit(parts.module, parts.datamodule, ckpt_path=str(resumed[0]) if resumed else None)
    except TrainingStopped as stop:
        end_by_signal(stop)
    recorder.act(trainer)  # in case there was no step left to train
    if not config.test:
        return
    best = directory / "checkpoints" / "best.ckpt"
    if not best.exists():
        raise TrainingError(
            f"{best}: there is nothing to test: no validation had a finite error (see {directory / METRICS}, and "
            "lower optim.schedule.peak), or callbacks.best is null"
        )
    results = evaluate_checkpoint(trainer, parts, config, best)
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    results["train_seconds"] = round(timers[0].time_elapsed("train"), 1) if timers else None
    if not trainer.is_global_zero:
        return
    curves = RunCurves(read_metrics(directory / METRICS), results["arm"], results["label"], results["seed"])
    save(learning_curves([curves]), directory / "figures" / "learning_curves.png")
    write_json(directory / RESULTS, results)
    log_results(loggers, config, results, origin)

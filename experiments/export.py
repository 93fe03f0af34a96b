"""Export a trained network as one file for others."""

import json
import os
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.reporting.model_card import model_card
from experiments.settings.configuration import arm_in, command, plain
from experiments.training.portable import portable
from tracegrad import __version__
from tracegrad.elements import SYMBOLS
from tracegrad.errors import CheckpointError, ConfigError, TraceGradError
from tracegrad.hamiltonian.basis import OrbitalBasis, shells_name
from tracegrad.reports.arms import ARM_LABELS
from tracegrad.reports.compatible import check_data, check_row, data_of
from tracegrad.reports.results import FILE as RESULTS
from tracegrad.reports.results import ResultsError, RunResult, read_result, read_run
from tracegrad.system.whole_files import replacing
from tracegrad.weights.checkpoint import CHECKPOINT_KEY, load_checkpoint
from tracegrad.weights.model_file import ENDING, read_model_file, write_model_file
from tracegrad.weights.saved import build_network, network_of_checkpoint


@command("export", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Export the network that the command line names."""
    export(plain(config))


def export(values: dict[str, Any]) -> Path:
    """Write the model file and its card, and return the path of the file.

    Raises:
        ConfigError: the output is no .safetensors file, or it exists and ``overwrite`` is false.
        CheckpointError: the checkpoint is missing, damaged, or not of a run of TraceGrad.
        ResultsError: one of ``runs`` is not of the same arm and data.
    """
    run = Path(str(values["run"]))
    output = Path(str(values["output"] or run / f"model{ENDING}"))
    if output.suffix != ENDING:
        raise ConfigError(f"output is {output}; its name must end in {ENDING}")
    card = output.with_suffix(".md")
    for path in (output, card):  # before any work
        if os.path.lexists(path) and (path.is_dir() or not values["overwrite"]):
            raise ConfigError(f"{path}: exists; choose another output or set overwrite=true")
    if output.exists():
        read_model_file(output)  # raises for a file that is no model: only model files are overwritten
    chosen = str(values["checkpoint"])
    checkpoint = run / "checkpoints" / f"{chosen}.ckpt" if chosen in ("best", "last") else Path(chosen)
    content = load_checkpoint(checkpoint)
    settings, state = network_of_checkpoint(content, checkpoint)
    model = build_network(settings, state, checkpoint)
    step = content.get("global_step")
    results = _results(run, checkpoint, step, [Path(str(other)) for other in values["runs"]])
    record: dict[str, Any] = portable(
        {
            "model": settings,
            **_training(content, checkpoint, run),
            "backbone": model.backbone.label,
            "crystal": model.basis.periodic,
            "basis": _basis(model.basis),
            "parameters": sum(value.numel() for value in state.values()),
            "metrics": [
                {
                    "seed": r.seed,
                    "repetition": r.repetition,
                    "step": r.step,
                    "unit": r.unit,
                    "values": r.metrics,
                }
                for r in results
            ],
            "columns": [asdict(column) for column in results[0].columns] if results else [],
            "trivial": results[0].trivial if results else {},
            "licence": values["licence"],
            "description": values["description"],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "tracegrad": __version__,
        },
        run,
    )
    with ExitStack() as files:
        text = files.enter_context(replacing(card))
        draft = files.enter_context(replacing(output))
        text.write_text(model_card(record, output.name), encoding="utf-8")
        write_model_file(draft, state, record)
        content, tensors = read_model_file(draft)
        # An error in the file must not appear only at its users.
        build_network(content["model"], tensors, draft)
    seeds = f", {len(results)} seeds" if len(results) > 1 else ""
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB) and {card.name}{seeds}")
    if not results:
        print(f"there are no test results of step {step}, and the card says so; see tracegrad evaluate")
    if values["licence"] is None:
        print(
            "no licence is set, and the card says so: set licence=NAME, or others have no right to use the file"
        )
    return output


def _training(content: dict[str, Any], checkpoint: Path, run: Path) -> dict[str, Any]:
    """Record of the training from the checkpoint and the run directory."""
    saved = content[CHECKPOINT_KEY]
    config, data = saved["config"], saved.get("data")
    try:
        arm = arm_in(config["tracegrad"])
        training = {
            "experiment": config["name"],
            "arm": arm,
            "arm_label": ARM_LABELS[arm],
            "seed": config["seed"],
            "repetition": config.get("repetition"),
            "precision": config["trainer"]["precision"],
            "averaged": config.get("callbacks", {}).get("ema") is not None,
            "checkpoint": checkpoint.stem,
            "step": content["global_step"],
            "epoch": content["epoch"],
        }
        units = data["units"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint}: has no record of its training ({error!r}); give one of tracegrad train"
        ) from error
    path = run / "provenance.json"
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        code = {"revision": origin["git"], "python": origin["python"], "packages": origin["packages"]}
        training["init_from"] = origin.get("init_from")
    except FileNotFoundError:
        code = {"revision": "unknown", "python": "unknown", "packages": {}}
        training["init_from"] = config.get("init_from") and {"file": config["init_from"], "sha256": "unknown"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TraceGradError(f"{path}: damaged ({error!r}); remove it to export without it") from error
    return {"training": training, "data": data, "units": units, "code": code}


def _basis(basis: OrbitalBasis) -> dict[str, Any]:
    return {
        "name": basis.name,
        "order": basis.convention,
        "spinful": basis.spinful,
        "collinear": basis.collinear,
        "shells": {SYMBOLS[z]: shells_name(basis.shells[z]) for z in basis.elements},
        "radii": {SYMBOLS[z]: float(np.round(r, 6)) for z, r in (basis.radii or {}).items()},
    }


def _results(run: Path, checkpoint: Path, step: Any, others: list[Path]) -> list[RunResult]:
    """Test results of the checkpoint, if there are any, followed by those of the other runs."""
    results = []
    for path in (run / RESULTS, run / f"evaluation_test_{checkpoint.stem}" / "evaluation.json"):
        result = read_result(path) if path.is_file() else None
        if result and (result.checkpoint, result.step, result.part) == (checkpoint.stem, step, "test"):
            results = [result]
            break
    if not others:
        return results
    if not results:
        raise ResultsError(f"{run}: no test results of {checkpoint.name}, with which runs= could be averaged")
    results += [read_run(other) for other in others]
    for other in results[1:]:
        if data_of(other) != data_of(results[0]) or other.arm != results[0].arm:
            raise ResultsError(
                f"{other.directory} is a run of {other.label} on {other.database} ({other.split} split "
                f"{other.split_hash}), not of {results[0].label} on {results[0].database} ({results[0].split} split "
                f"{results[0].split_hash}) as {run}; give runs of the same arm and data"
            )
    check_row(results)
    check_data(results)
    return results


if __name__ == "__main__":
    main()

"""Model card: what a model file predicts, how it was trained, how accurate it is and how to use it."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from tracegrad.metrics.columns import Column
from tracegrad.reports.columns import columns_of
from tracegrad.reports.markdown import markdown_table

TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def model_card(record: Mapping[str, Any], name: str) -> str:
    """Markdown text of a model card.

    Args:
        record: what `experiments.export` writes into the model file.
    """
    data, training = record["data"], record["training"]
    crystal = record["crystal"]
    things = "crystals" if crystal else "molecules"
    label = data.get("label") or data["database"]
    paragraphs = [
        f"# {record['backbone']}{training['arm_label']} for {label}",
        record["description"],
        f"Predicts the electronic-structure Hamiltonian H of {things} from atomic numbers and positions: "
        + _target(record, crystal),
        "## Use",
        TEXTS["use"][things].format(name=name),
        "## Training",
        markdown_table(("", ""), _training_rows(record)),
        f"## Test metrics\n\n{_metrics(record, crystal)}",
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(record, crystal)),
        "## Licence",
        record["licence"] or "None is stated: ask whoever gave you this file.",
        "The licence of the training data may apply to this network as well.",
        "## Citation",
        TEXTS["citation"],
    ]
    return "\n\n".join(text for text in paragraphs if text) + "\n"


def _target(record: Mapping[str, Any], crystal: bool) -> str:
    basis, unit = record["basis"], record["units"]["hamiltonian"]
    order = TEXTS["orders"][basis["order"]]
    shells = ", ".join(f"{symbol} {name}" for symbol, name in basis["shells"].items())
    if not crystal:
        return (
            f"the Fock matrix of restricted Kohn-Sham DFT ({record['data'].get('functional', 'unknown functional')}) "
            f"in {basis['name']}.\n\nPositions are in {record['units']['positions']}, H in {unit}. "
            f"The order of the orbitals is {order}. Shells: {shells}."
        )
    spin = (
        "; H is complex and has all orbitals with spin up, then all with spin down"
        if basis["spinful"]
        else '; there is an H for each spin, `spin="up"` and `spin="down"` of `model.hamiltonian`'
        if basis.get("collinear")
        else ""
    )
    return (
        f"one block for each pair of atoms and cells.\n\nPositions are in {record['units']['positions']}, H in "
        f"{unit}{spin}. The order of the orbitals in a block is {order}. Shells: {shells}."
    )


def _training_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, training, code = record["data"], record["training"], record["code"]
    identity = [f"{key} {data[key]}" for key in ("bytes", "head_sha256") if key in data]
    weights = "moving average" if training["averaged"] else "as trained"
    rows = [
        ("experiment", f"{training['experiment']}, arm {training['arm']}, seed {training['seed']}"),
        ("data", f"{data['database']} ({', '.join(identity)})"),
        ("split", f"{data['split']}, hash {data['split_hash']}"),
        ("samples", ", ".join(f"{part} {count}" for part, count in data["counts"].items())),
        (
            "steps",
            f"{training['step']} (checkpoint {training['checkpoint']}), precision {training['precision']}",
        ),
        ("weights", f"{weights}, {record['parameters']:,} parameters"),
        ("code", f"revision {code['revision']}, Python {code['python']}"),
        (
            "packages",
            ", ".join(f"{name} {version}" for name, version in code["packages"].items()) or "unknown",
        ),
        ("exported", f"{record['created']} by TraceGrad {record['tracegrad']}"),
    ]
    origin = training["init_from"]
    if origin:
        rows.append(("began with weights of", f"{origin['file']} (SHA-256 {origin['sha256']})"))
    return rows + [("differs from the paper's data", line) for line in data.get("differences", [])]


def _metrics(record: Mapping[str, Any], crystal: bool) -> str:
    """Metrics of this network, with mean and spread over the seeds."""
    results = record["metrics"]
    if not results:
        return "This checkpoint was not tested."
    first = results[0]["values"]
    subsets = list(dict.fromkeys(key.split("/")[2] if key.count("/") > 1 else "" for key in first))
    seeds = ", ".join(str(entry["seed"]) for entry in results)
    head = ["metric", "unit", f"this network (seed {results[0]['seed']})"]
    if len(results) > 1:
        head.append(f"mean ± sample standard deviation over seeds {seeds}")
    rows = []
    others = [Column(**entry) for entry in record.get("columns", [])]
    for column in columns_of(crystal, subsets, others):
        if column.key not in first:
            continue
        values = [entry["values"][column.key] for entry in results if column.key in entry["values"]]
        row = [column.name, column.unit, f"{values[0]:.{column.digits}f}"]
        if len(results) > 1:
            spread = f" ± {stdev(values):.{column.digits}f}" if len(values) > 1 else ""
            row.append(f"{fmean(values):.{column.digits}f}{spread}")
        trivial = record["trivial"].get(column.key)
        rows.append([*row, "" if trivial is None else f"{trivial:.{column.digits}f}"])
    note = "The trivial predictor gives the mean block of each pair of species."
    if crystal and len(subsets) > 1:
        note += " nt: structures like those of the training; t: twisted ones."
    return f"{markdown_table([*head, 'trivial predictor'], rows)}\n\n{note}"


def _limits(record: Mapping[str, Any], crystal: bool) -> list[str]:
    data, basis = record["data"], record["basis"]
    elements = ", ".join(basis["shells"])
    lines = [
        f"Elements: {elements}; others are refused, and those that are rare in the training data are predicted badly."
    ]
    if crystal:
        lines += [
            f"Structures like those of {data['database']}, with the same orbitals and pseudopotentials.",
            "The pairs of atoms must be those that the DFT program would store for this basis.",
        ]
        twisted = data["counts"].get("twisted")
        tested = "other structures of the same database, drawn at random"
        if not str(data["split"]).startswith("shuffle"):
            tested = f"the structures that {data['split']} lists for it"
        lines.append(
            f"It was tested on {tested}"
            + (f", and on {twisted} twisted structures, which it was never trained on." if twisted else
               "; not on twisted structures.")
        )  # fmt: skip
    else:
        lines += [
            "Neutral molecules with closed shells; no ions, radicals, excited states, solvents or periodic systems.",
            f"H of another functional or basis set than {data.get('functional', 'that of the data')}/"
            f"{basis['name']} is not what it predicts.",
            f"It was tested on {TEXTS['splits'].get(data['split'], 'what ' + str(data['split']) + ' lists for it')}.",
        ]
    lines.append("Its errors outside of the test set are unknown, and it does not estimate them itself.")
    return lines

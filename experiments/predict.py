"""Predict Hamiltonians of molecules and crystals."""

import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from experiments.prediction.crystal import predict_crystal
from experiments.settings.configuration import command, plain
from experiments.settings.paths import home
from tracegrad.errors import ConfigError, DataError
from tracegrad.weights.ensembles import load_ensemble


@command("predict", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Predict the Hamiltonian that the command line asks for."""
    predict(plain(config))


def predict(values: dict[str, Any]) -> None:
    """Load the network, or several, and predict a molecule or a crystal, depending on what it was trained on.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: the output exists already.
    """
    for name in ("threads", "edge_chunk"):
        value = values[name]
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{name} is {value!r}; give a whole number of at least 1, or null")
    frame = values["frame"]
    if frame is not None and type(frame) is not int:
        raise ConfigError(f"frame is {frame!r}; give a whole number, 0 for the first frame, or null")
    level = values["fermi_level"]
    if level is not None and level != "count" and type(level) not in (int, float):
        raise ConfigError(f"fermi_level is {level!r}; give a number (eV), count, or null")
    structure = Path(str(values["structure"]))
    output = Path(str(values["output"])) if values["output"] is not None else default_output(structure, frame)
    if os.path.lexists(output) and not output.is_dir():
        raise DataError(f"{output}: exists and is not a folder; choose another output")
    if values["threads"] is not None:
        torch.set_num_threads(values["threads"])
    model = load_ensemble(networks(values["checkpoint"]))
    # Behind the network and the structure: overwriting is no remedy where one of these is missing.
    content = sorted(os.listdir(output)) if output.is_dir() and structure.exists() else []
    if content and not values["overwrite"]:
        raise DataError(
            f"{output}: exists and holds {content[:5]}; choose another output or set overwrite=true"
        )
    try:
        model.to(values["device"])
    except (RuntimeError, AssertionError) as error:  # torch raises these for unknown and missing devices
        raise ConfigError(
            f"device={values['device']} cannot be used ({str(error).splitlines()[0]}); give cpu or cuda"
        ) from error
    # H is hermitian, and a structure folder contains H(R, i, j) as well as its adjoint H(-R, j, i).
    settings = {"edge_chunk": values["edge_chunk"], "hermitian": True}
    for member in model.members:
        for name, value in settings.items():
            if hasattr(member.backbone, name):  # not every backbone has these options
                setattr(member.backbone, name, value)
    if model.basis.periodic:
        predict_crystal(model, structure, output, values)
        return
    if values["basis_files"] is not None:
        raise ConfigError(
            f"basis_files={values['basis_files']} is for crystals; {values['checkpoint']} predicts molecules, whose "
            "overlaps PySCF computes: leave it out"
        )
    from experiments.prediction.molecule import predict_molecule  # here, because crystals do not need PySCF

    predict_molecule(model, structure, output, values)


def networks(value: Any) -> list[str]:
    """The networks that the setting ``checkpoint`` names: a list, or a text with commas.

    Raises:
        ConfigError: none, or an entry that is no text.
    """
    entries = value if isinstance(value, list) else [str(value)]
    if entries == value or os.path.exists(entries[0]):
        names = entries
    else:
        names = [home("checkpoint", name.strip()) for name in entries[0].split(",")]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"checkpoint is {value!r}; give a run directory or a file, or several, such as a,b,c"
        )
    return names


def default_output(structure: Path, frame: int | None) -> Path:
    """predicted/NAME, where NAME is the name of the file or folder, followed by the number of the frame if given."""
    name = structure.name if structure.is_dir() else structure.stem
    return Path("predicted") / (name + ("" if frame is None else f"_{frame}"))


if __name__ == "__main__":
    main()

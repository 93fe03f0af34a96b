"""Packages that only some work needs, and the extras of this package that install them."""

from importlib.util import find_spec

from tracegrad.errors import TraceGradError

# Package -> its extra, and what needs it.
EXTRAS = {
    "ase": ("dft", "geometry files and structures"),
    "huggingface_hub": ("hub", "a model on the Hugging Face Hub"),
    "pyscf": ("dft", "work on molecules"),
    "sisl": ("siesta", "an export to sisl or TSHS"),
    "submitit": ("slurm", "launcher=slurm"),
    "wandb": ("wandb", "logger.wandb.mode=online or offline"),
}


class MissingExtraError(TraceGradError, ModuleNotFoundError):
    """A package of an extra that is not installed.

    Args:
        package: a key of `EXTRAS`.
    """

    def __init__(self, package: str) -> None:
        extra, purpose = EXTRAS[package]
        super().__init__(
            f"the package {package}, which {purpose} needs, is not installed; pip install 'tracegrad[{extra}]'",
            name=package,
        )


def installed(package: str) -> bool:
    """Whether a package is installed; a folder of its name, such as the one that W&B creates, does not count."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def require(package: str) -> None:
    """Raise `MissingExtraError` unless a package of `EXTRAS` is installed."""
    if not installed(package):
        raise MissingExtraError(package)

"""Compute the band structure of a crystal, and errors of predicted bands."""

from omegaconf import DictConfig

from experiments.prediction.bands import write_bands
from experiments.settings.configuration import command, plain


@command("bands", help_without_arguments=True)
def main(config: DictConfig) -> None:
    """Compute the bands that the command line asks for."""
    write_bands(plain(config))


if __name__ == "__main__":
    main()

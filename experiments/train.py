"""Train a model, test it, and leave a run directory that can be understood alone."""

from omegaconf import DictConfig

from experiments.configuration import command, plain
from experiments.runs import train
from experiments.tables import print_results


@command("train")
def main(config: DictConfig) -> None:
    """Train the configured model, or go on with an interrupted run."""
    results = train(config, plain(config))
    if results is not None:
        print_results(results)
    print(f"run directory: {config.run_dir}")


if __name__ == "__main__":
    main()

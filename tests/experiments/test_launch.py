"""One training started in every possible way: by hand, by torchrun and by srun; on two processes without a GPU."""

import csv
import os
import socket
import subprocess
from pathlib import Path

import pytest
from hydra.utils import instantiate
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from experiments.settings.configuration import composed, plain
from experiments.training.launch import slurm
from experiments.training.parts import make_trainer
from experiments.training.wandb_run import STEP
from tests import forked
from tests.experiments.processes import PLAIN
from tests.experiments.test_train import SMALL
from tests.experiments.wandb_file import history
from tracegrad.errors import ConfigError

ROOT = Path(__file__).parents[2]
SBATCH = ROOT / "experiments" / "slurm" / "train.sbatch"
TASK = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NAME": "tracegrad",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "localhost",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a process that srun has started."""
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)


def words(directory: Path, *overrides: str) -> list[str]:
    return [
        *(override for override in SMALL if "wandb.mode" not in override),
        *("trainer.accelerator=cpu", "trainer.max_steps=4", "logger.wandb.mode=offline"),
        *(*PLAIN, "callbacks.orbitals=null"),
        *(f"run_dir={directory}", *overrides),
    ]


def clean_environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "SLURM"))}
    return clean | {"OMP_NUM_THREADS": "1"} | more


def start(directory: Path, *overrides: str, **environment: str) -> forked.Forked:
    """The command with its place, if any, from its environment alone, as srun gives it."""
    arguments = words(directory, *overrides)
    return forked.start("experiments.train", *arguments, environment=clean_environment(**environment))


def start_torchrun(directory: Path, *overrides: str) -> forked.Forked:
    launcher = ("--nproc-per-node=2", f"--master-port={free_port()}", "-m", "experiments.train")
    arguments = (*launcher, *words(directory, *overrides))
    return forked.start("torch.distributed.run", *arguments, environment=clean_environment())


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_every_launch_is_the_same_training_logged_once(tmp_path: Path) -> None:
    """Two gloo processes each: metrics agree to the last digit, and only the first process writes."""
    port = free_port()
    tasks = [
        TASK
        | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "MASTER_PORT": port}
        | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        for rank in "01"
    ]
    # The second process of a start by hand, and both of torchrun, are new Pythons.
    started = {
        "plain": [start(tmp_path / "plain", "trainer=ddp", "trainer.devices=2", "test=false")],
        "torchrun": [start_torchrun(tmp_path / "torchrun", "trainer=ddp")],
        "slurm": [start(tmp_path / "slurm", "trainer=slurm", "test=false", **task) for task in tasks],
    }
    ended = {name: [process.wait() for process in processes] for name, processes in started.items()}
    outputs = {name: [(done.stdout, done.stderr) for done in processes] for name, processes in ended.items()}
    assert [done.returncode for processes in ended.values() for done in processes] == [0, 0, 0, 0], outputs
    tables = {}
    for name, said in outputs.items():
        assert "".join(out for out, _ in said).count("run directory:") == 1
        assert sum(err.count("GLOBAL_RANK: 1, MEMBER: 2/2") for _, err in said) == 1
        table = _rows(tmp_path / name / "metrics.csv")
        (piece,) = (tmp_path / name / "wandb").glob("offline-run-*")
        for key in ("train/loss", "lr"):
            assert [row["step"] for row in table if row[key]] == ["0", "1", "2", "3"]
            assert [row[STEP] for row in history(piece) if key in row] == [0, 1, 2, 3]
        assert sum("test_table" in row for row in history(piece)) == (name == "torchrun")
        tables[name] = [
            {key: value for key, value in row.items() if key.startswith(("step", "train/", "val/"))}
            for row in table
            if not row.get("test/h_mae")
        ]
    assert tables["plain"] == tables["torchrun"] == tables["slurm"]
    samples = [row["row"] for row in _rows(tmp_path / "torchrun" / "test_samples.csv")]
    assert len(set(samples)) == len(samples) == 20


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_trainers_follow_the_launcher(task: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_NNODES", "2")
    under_slurm = composed("train", ["experiment=demo", "trainer=slurm"]).trainer
    assert (under_slurm.devices, under_slurm.num_nodes) == (4, 2)
    by_hand = composed("train", ["trainer=ddp", "trainer.devices=8", "trainer.num_nodes=2"]).trainer
    assert (by_hand.devices, by_hand.num_nodes) == (8, 2)
    assert composed("train", ["trainer=ddp"]).trainer.devices == "auto"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "5")
    under_torchrun = composed("train", ["trainer=ddp"]).trainer
    assert (under_torchrun.devices, under_torchrun.num_nodes) == (3, 5)


def test_strategy_is_built_as_configured() -> None:
    strategy = instantiate(
        composed("train", ["trainer=ddp", "trainer.strategy.timeout.minutes=7"]).trainer.strategy
    )
    assert isinstance(strategy, DDPStrategy)
    assert strategy._timeout.total_seconds() == 7 * 60
    assert strategy._ddp_kwargs == {
        "find_unused_parameters": False,
        "gradient_as_bucket_view": True,
        "static_graph": False,
    }


def test_slurm_leaves_queueing_again_to_the_run(task: None, tmp_path: Path) -> None:
    config = composed("train", [*SMALL, f"run_dir={tmp_path}", "trainer=slurm", "trainer.accelerator=cpu"])
    environment = make_trainer(config, [], []).strategy.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert environment.auto_requeue is False


def test_slurm_without_srun_is_named(task: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ConfigError, match=r"2 tasks.* --ntasks-per-node"):
        slurm()
    monkeypatch.delenv("SLURM_PROCID")
    with pytest.raises(ConfigError, match=r"no SLURM_PROCID.*train\.sbatch"):
        slurm()


def test_batch_script_gives_a_configuration_that_composes(
    tmp_path: Path, task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script is run with an srun that only prints its arguments."""
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$SRUN_CPUS_PER_TASK" "$@"\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(
        ["bash", str(SBATCH), "experiment=demo", "name=my name", "data.num_workers=1"],
        env=environment | {"PYTHON": "python"},
        capture_output=True,
        text=True,
        check=True,
    )
    cores, *words = done.stdout.splitlines()
    assert cores == "8"
    first = words.index("train") + 1
    assert words[first - 4 : first] == ["python", "-m", "tracegrad", "train"]
    assert all(word.startswith("--") for word in words[: first - 4])
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    values = plain(composed("train", words[first:]))
    assert values["trainer"]["plugins"] == [{"_target_": "experiments.training.launch.slurm"}]
    assert values["trainer"]["devices"] == 4
    assert values["data"]["num_workers"] == 1
    assert values["name"] == "my name"


def test_batch_script_saves_before_the_job_ends() -> None:
    """The script requests the signal that triggers checkpoints, for the tasks (not ``B:``), and allows requeueing."""
    options = dict(
        line.removeprefix("#SBATCH --").split("#")[0].strip().partition("=")[::2]
        for line in SBATCH.read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert options["signal"] == "SIGUSR1@180"
    assert {"requeue", "open-mode"} <= options.keys()
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["job-name"] not in ("bash", "interactive")

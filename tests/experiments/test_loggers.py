"""W&B: one run even after restarts, nothing logged twice, no information about the machine in what is uploaded."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.training.portable import portable
from experiments.training.rank import process_rank
from experiments.training.wandb_run import ID_FILE, STEP, print_wandb_hint, wandb_mode
from tests import forked
from tests.experiments.test_train import SMALL
from tests.experiments.wandb_file import history, records
from tests.experiments.wandb_server import Server
from tests.serving import answering
from tracegrad import load_model
from tracegrad.data.loading.datamodule import database_path
from tracegrad.errors import ConfigError

ROOT = Path(__file__).parents[2]
RUN = Path("runs/demo/tracegrad_seed0")
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with a run that was stopped after an epoch and then finished by the same command."""
    home = tmp_path_factory.mktemp("users") / "alice"
    (home / "secret_project").mkdir(parents=True)
    database = shutil.copy(database_path("embedded:demo_dynamic.db"), home / "secret_project" / "mine.db")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(home), "USER": "alice", "PYTHONPATH": str(ROOT)}
    environment |= {"WANDB_API_KEY": KEY, "WANDB_HOST": "alices-machine", "WANDB_EMAIL": "alice@example.org"}
    overrides = [override for override in SMALL if "wandb.mode" not in override]
    command = ["experiments.train", *overrides, f"data.path={database}"]
    command += [f"run_dir={RUN}", "logger.wandb.mode=offline", "logger.wandb.tags=[a,b]", "test=true"]
    for more in (("trainer.max_steps=6", "test=false"), ("logger.wandb.artifact=true",)):
        done = forked.run(*command, *more, environment=environment, folder=home)
        assert done.returncode == 0, done.stderr
    (home / "stdout").write_text(done.stdout)
    return home


@pytest.fixture(scope="module")
def pieces(home: Path) -> list[Path]:
    return sorted((home / RUN / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_restarted_run_stays_one_run(home: Path, pieces: list[Path]) -> None:
    assert len(pieces) == 2
    (name,) = {record.run.run_id for piece in pieces for record in records(piece) if record.HasField("run")}
    assert (home / RUN / ID_FILE).read_text().strip() == name
    paths = " ".join(str(piece.relative_to(home)) for piece in pieces)
    assert f"wandb sync --id {name} {paths}\n" in (home / "stdout").read_text()


@pytest.mark.slow
def test_nothing_is_logged_twice(pieces: list[Path]) -> None:
    rows = [history(piece) for piece in pieces]
    for key, steps in (("train/loss", [range(6), range(6, 12)]), ("val/h_mae", [[5], [11]])):
        assert [[row[STEP] for row in part if key in row] for part in rows] == [list(s) for s in steps]
    assert [[row[STEP] for row in part if "test/h_mae" in row] for part in rows] == [[], [12]]
    last = [row for part in rows for row in part if "test_table" in row]
    assert len(last) == 1
    assert {"figures/elements", "figures/hamiltonian", "figures/learning_curves"} <= last[0].keys()
    assert last[0]["figures/elements"]["_type"] == "image-file"


@pytest.mark.slow
def test_rows_of_both_pieces_are_counted_on(pieces: list[Path]) -> None:
    counts = [row["_step"] for piece in pieces for row in history(piece)]
    assert counts == sorted(set(counts))
    assert counts[0] == 0


@pytest.mark.slow
def test_plots_are_over_the_steps_of_the_training(pieces: list[Path]) -> None:
    for piece in pieces:
        metrics = [record.metric for record in records(piece) if record.HasField("metric")]
        assert any(metric.glob_name == "*" and metric.step_metric == STEP for metric in metrics)


@pytest.mark.slow
def test_table_of_the_test_holds_the_results(home: Path, pieces: list[Path]) -> None:
    results = json.loads((home / RUN / "results.json").read_text())
    (entry,) = (row["test_table"] for row in history(pieces[1]) if "test_table" in row)
    table = json.loads((pieces[1] / "files" / entry["path"]).read_text())
    assert table["columns"] == ["method", "seed", *results["metrics"]]
    assert table["data"][1] == ["QHNet+TraceGrad", 0, *results["metrics"].values()]
    assert table["data"][0][:2] == ["trivial predictor", None]
    assert results["trivial"]["test/h_mae"] in table["data"][0]


@pytest.mark.slow
def test_group_tags_and_job_type_are_sent(pieces: list[Path]) -> None:
    for piece in pieces:
        (run,) = (record.run for record in records(piece) if record.HasField("run"))
        assert (run.project, run.run_group, run.job_type) == ("tracegrad", "demo", "train")
        assert run.display_name == "demo/tracegrad_seed0"
        assert list(run.tags) == ["a", "b"]


@pytest.mark.slow
def test_nothing_of_the_machine_is_in_what_is_uploaded(home: Path, pieces: list[Path]) -> None:
    """Every byte of both sessions, except the logs of W&B itself, which `wandb sync` does not upload."""
    secrets = [str(home), str(home.parent), str(ROOT), "alice", "secret_project", KEY]
    host = socket.gethostname()
    secrets += [host] if len(host) > 5 else []  # shorter ones are in random letters
    files = [p for piece in pieces for p in piece.rglob("*") if p.is_file() and p.parent.name != "logs"]
    files.append(home / RUN / "wandb" / "model.ckpt")
    names = {path.name for path in files}
    assert any(name.endswith(".wandb") for name in names)
    assert not names & {"wandb-metadata.json", "requirements.txt", "output.log"}
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    sent = b"".join(path.read_bytes() for path in files)
    assert b"mine.db" in sent
    assert b"0.01" in sent


@pytest.mark.slow
def test_an_online_run_is_joined_and_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    """A run that is started twice in a directory: the server receives one history and no path."""
    home = tmp_path / "alice"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(home), "USER": "alice", "PYTHONPATH": str(ROOT), "WANDB_API_KEY": KEY}
    with answering(Server()) as server:
        environment["WANDB_BASE_URL"] = server.url
        settings = (f"run_dir={home / 'run'}", f"data.path={home}/mine.db")
        done = forked.run("tests.experiments.online_runs", *settings, environment=environment)
        assert done.returncode == 0, done.stderr
        assert [server.lines[i][STEP] for i in range(6)] == list(range(6))
        assert [server.lines[i]["_step"] for i in range(6)] == list(range(6))
    sent = b"".join(server.bodies)
    assert b"mine.db" in sent
    for secret in ("alice", str(tmp_path), str(ROOT), KEY, str(Path(sys.executable).parent)):
        assert secret.encode() not in sent, secret


@pytest.mark.slow
def test_offline_pieces_are_one_history_after_the_upload(
    home: Path, pieces: list[Path], tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(home), "WANDB_API_KEY": KEY}
    with answering(Server()) as server:
        name = (home / RUN / ID_FILE).read_text().strip()
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", "--id", name, *map(str, pieces)],
            env=environment | {"WANDB_BASE_URL": server.url},
            cwd=tmp_path,  # where it leaves a log
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    rows = [row for piece in pieces for row in history(piece)]
    assert [server.lines[i]["_step"] for i in range(len(rows))] == [row["_step"] for row in rows]
    assert len(server.lines) == len(rows)


@pytest.mark.slow
def test_model_goes_along_on_request(home: Path, pieces: list[Path]) -> None:
    artifacts = [[r.artifact for r in records(piece) if r.HasField("artifact")] for piece in pieces]
    assert artifacts[0] == []
    (artifact,) = artifacts[1]
    assert (artifact.name, artifact.type) == ("demo-tracegrad_seed0", "model")
    metadata = json.loads(artifact.metadata)
    results = json.loads((home / RUN / "results.json").read_text())
    origin = json.loads((home / RUN / "provenance.json").read_text())
    assert metadata["metrics"] == results["metrics"]
    assert metadata["data"]["split_hash"] == results["split_hash"]
    assert metadata["git"] == origin["git"]
    (content,) = artifact.manifest.contents
    sent, own = load_model(home / content.local_path), load_model(home / RUN)
    for name, tensor in own.state_dict().items():
        assert torch.equal(sent.state_dict()[name], tensor)
    assert "optimizer_states" not in torch.load(home / content.local_path, weights_only=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data/QH9Stable.db", "QH9Stable.db"),
        ("/data/my files/a.db", "a.db"),
        ("~/data/a.db", "a.db"),
        ("~bob/a.db", "a.db"),
        ("../bob/a.db", "a.db"),
        ("file:///home/bob/a.db", "a.db"),
        ("data.path=/data/a.db", "data.path=a.db"),
        ("data.path='/data/my files/a.db'", "data.path='a.db'"),
        ("data.split_file=[/data/a.json,../b.json]", "data.split_file=[a.json,b.json]"),
        ("read /data/a.db, then (~/b.db)", "read a.db, then (b.db)"),
        ("PATH:/home/carol/bin", "PATH:~/bin"),
        ("/scratch/bob/runs/x/checkpoints/best.ckpt", "<run_dir>/checkpoints/best.ckpt"),
        ("run_dir=/scratch/bob/runs/x", "run_dir=<run_dir>"),
        ("http://user:very-secret@host/a", "http://user:<secret>@host/a"),
        ("runs/demo/none_seed0", "runs/demo/none_seed0"),
        ("embedded:demo_dynamic.db", "embedded:demo_dynamic.db"),
        ("https://zenodo.org/records/8274793", "https://zenodo.org/records/8274793"),
        ("test/h_mae 1/2", "test/h_mae 1/2"),
        ("~callbacks.ema", "~callbacks.ema"),
        (1e-3, 1e-3),
        (None, None),
    ],
)
def test_portable_texts(value: object, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/carol")
    monkeypatch.setenv("DB_PASSWORD", "very-secret")
    run = Path("/scratch/bob/runs/x")
    assert portable({"a": [value, (value,)]}, run) == {"a": [expected, [expected]]}


def test_mode_follows_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_mode("auto") == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode("auto") == "online"
    assert wandb_mode("offline") == "offline"
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert wandb_mode("online") == "offline"
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(ConfigError, match=r"WANDB_MODE is 'of'; choose one of"):
        wandb_mode("auto")


def test_hint_names_each_way_to_upload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / name for name in ("none seed0", "none_seed1", "trace_seed0")]
    for i, run in enumerate(runs):
        (run / "wandb" / f"offline-run-20260101_00000{i}-id{i}").mkdir(parents=True)
    print_wandb_hint([*runs, tmp_path / "without"])
    assert f"  upload: wandb sync {tmp_path}/*/wandb/offline-run-*\n" in capsys.readouterr().out
    later = runs[1] / "wandb" / "offline-run-20260102_000000-id1"
    later.mkdir()
    print_wandb_hint(runs)
    said = capsys.readouterr().out
    whole = [f'"{runs[0]}"/wandb/offline-run-*', f"{runs[2]}/wandb/offline-run-*"]
    assert f"  upload: wandb sync {' '.join(whole)}\n" in said
    assert f"wandb sync --id id1 {runs[1]}/wandb/offline-run-20260101_000001-id1 {later}\n" in said
    print_wandb_hint([tmp_path / "without"])
    assert capsys.readouterr().out == ""


def test_first_process_of_a_second_node_is_not_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_rank() == 0
    monkeypatch.setenv("NODE_RANK", "1")
    assert process_rank() > 0

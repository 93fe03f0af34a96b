"""The package as users get it: a wheel, built from the source distribution, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT, without

EXTRAS = ("pyscf", "ase", "wandb", "submitit")
FOLDERS = ("callbacks", "conf", "docs", "experiments", "studies", "tests", "tracegrad")
FEW_STEPS = [
    *("callbacks=default", "trainer.max_steps=4", "tracegrad.channels=8", "tracegrad.hidden=8"),
    *("callbacks.test_report.figure_samples=0", "callbacks.inference_time.samples=0"),
]
MOLECULES = [
    *("experiment=demo", "data.train_size=48", "data.fractions=[.92,.04,.04]"),
    *("model.backbone.channels=4", "model.backbone.bottleneck=4"),
]
CRYSTALS = [
    *("experiment=demo_crystals", "data.sizes=[4,2,2]", "model.backbone.irreps=4x0e+2x1o+2x2e"),
    *("model.backbone.embed=4", "model.backbone.blocks=1"),
]


class Installed:
    """A Python environment with the wheel, what the tests have installed, and none of the extras.

    Args:
        folder: for the environment and for what the commands write.
        wheel: the file.
    """

    def __init__(self, folder: Path, wheel: Path):
        self.folder, self.wheel = folder, wheel
        environment = folder / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        self.program = environment / "bin" / "tracegrad"
        pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
        subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
        (site,) = environment.glob("lib/python*/site-packages")
        without(folder / "dependencies", "tracegrad", *EXTRAS)
        (site / "dependencies.pth").write_text(f"{folder / 'dependencies'}\n")
        (folder / "extras").mkdir()
        for name in ("ase", "pyscf"):
            (folder / "extras" / name).symlink_to(Path(sysconfig.get_paths()["purelib"]) / name)

    def call(self, *words: str, extras: bool = False) -> subprocess.CompletedProcess[str]:
        """A command as a user gives it in another folder, with the extras or without them."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if extras:
            environment["PYTHONPATH"] = str(self.folder / "extras")
        return subprocess.run(
            [self.program, *words],
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from an unpacked source distribution, which therefore is complete."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "checkout").mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder / "checkout")
        elif path.name in FOLDERS:
            ignored = shutil.ignore_patterns("__pycache__", "*.tracegrad-*")
            shutil.copytree(path, folder / "checkout" / path.name, ignore=ignored)
    build = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    call = [sys.executable, "-W", "ignore", "-c", build]
    subprocess.run([*call, "build_sdist", folder], cwd=folder / "checkout", check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / source.name.removesuffix(".tar.gz")
    for name in ("CHANGELOG.md", "requirements.txt", "tests/conftest.py", "docs/glossary.md", "Makefile"):
        assert (unpacked / name).is_file()
    subprocess.run([*call, "build_wheel", folder], cwd=unpacked, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.slow
def test_a_wheel_has_every_file_and_one_name(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"tracegrad"}
    for folder in ("tracegrad", "callbacks", "experiments", "conf"):
        prefix = "" if folder == "tracegrad" else "tracegrad/commands/"
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and ".tracegrad-" not in path.name:
                assert f"{prefix}{path.relative_to(ROOT).as_posix()}" in names


@pytest.mark.slow
@pytest.mark.timeout(1200)  # about a minute and a half, but on a busy machine much longer
def test_the_commands_of_a_wheel(installed: Installed) -> None:
    """Train a network of crystals in a sweep, one of molecules, predict with it, and compare the runs."""
    assert installed.call("--version").stdout.startswith("tracegrad ")
    # Each training of a sweep is a process of its own, which finds the commands as well.
    done = installed.call("ablate", *CRYSTALS, *FEW_STEPS, "arms=none", "seeds=[0]", "runs=runs/crystals")
    assert done.returncode == 0, done.stderr + done.stdout
    done = installed.call("train", *MOLECULES, *FEW_STEPS, "run_dir=runs/molecules/tracegrad_seed0")
    assert done.returncode == 0, done.stderr
    done = installed.call("report", "runs")
    assert done.returncode == 0, done.stderr
    assert list((installed.folder / "runs" / "report").rglob("*.md"))

    molecule = [
        "checkpoint=runs/molecules/tracegrad_seed0",
        f"structure={ROOT}/tracegrad/data/embedded/HOF.xyz",
    ]
    done = installed.call("predict", *molecule)
    assert done.returncode == 1
    assert done.stderr.endswith("is not installed; pip install 'tracegrad[dft]'\n")
    done = installed.call("predict", *molecule, extras=True)
    assert done.returncode == 0, done.stderr
    assert (installed.folder / "predicted" / "HOF" / "hamiltonian.npz").is_file()

import contextlib
import copy
from collections import namedtuple
from hashlib import md5

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from experiments.fetch import fetch_databases, main
from experiments.settings.cli import clean_errors
from experiments.settings.configuration import composed, plain
from tests.data.databases import random_sample, write_stable
from tests.data.fetch.server import Site, serving
from tests.experiments.fetch.archives import zipped


@pytest.fixture(scope="session")
def database(tmp_path_factory) -> bytes:
    """A file like QH9Stable.db with three molecules."""
    samples = [random_sample(numbers, i) for i, numbers in enumerate([[8, 1, 1], [8, 1], [1, 1, 8]])]
    return write_stable(tmp_path_factory.mktemp("tiny") / "QH9Stable.db", samples).read_bytes()


@pytest.fixture
def site(monkeypatch, database):
    """QH9Stable.zip in four parts, as the record has it, at the address of a mirror."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    content = zipped({"QH9Stable.db": database})
    size = -(-len(content) // 4)
    parts = {f"/QH9Stable.zip.00{i + 1}": content[i * size : (i + 1) * size] for i in range(4)}
    with serving(Site(files=parts)) as served:
        yield served


@pytest.fixture
def checksums(site) -> str:
    """The parts with the checksums that the record would publish."""
    files = [
        {"name": path[1:], "checksum": f"md5:{md5(content).hexdigest()}"}
        for path, content in site.files.items()
    ]
    text = ",".join(f"{{name: {file['name']}, checksum: '{file['checksum']}'}}" for file in files)
    return f"databases.qs.files=[{text}]"


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: what it prints, errors last."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["fetch", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call


@pytest.fixture(scope="session")
def settings() -> DictConfig:
    """Of the command for qs."""
    return composed("fetch", ["fetch=qs"])


@pytest.fixture
def fetch(settings, site, checksums, tmp_path, capsys):
    """Fetch qs from the site as the command does, without the time that Hydra takes."""

    def call(*arguments: str) -> str:
        config = copy.deepcopy(settings)
        for argument in (
            f"mirror={site.address}",
            f"target={tmp_path / 'data'}",
            "pause=0.001",
            checksums,
            *arguments,
        ):
            key, _, value = argument.partition("=")
            OmegaConf.update(config, key, yaml.safe_load(value), merge=False)
        with contextlib.suppress(SystemExit):
            clean_errors(fetch_databases)(plain(config))
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call


DISK = namedtuple("DISK", "total used free")


@pytest.fixture(autouse=True)
def _large_disk(monkeypatch):
    """The sizes of the real archives are required; a test of the disk says how large it is."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: DISK(10**12, 0, 10**12))

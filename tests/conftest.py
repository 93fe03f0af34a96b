"""Shapes and types in the signatures of tracegrad are checked in tests only.

The hook has to stand before the first import of tracegrad.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
from jaxtyping import install_import_hook

# Kernels for GPUs run on CPU tensors; Triton reads this when it is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")
# PySCF reads this, too.
os.environ["PYSCF_CONFIG_FILE"] = str(Path(__file__).with_name("pyscf_conf.py"))
HOOK = install_import_hook("tracegrad", "tests.signatures.checked")

import pytest  # noqa: E402
import torch  # noqa: E402

from tests import signatures  # noqa: E402
from tracegrad.hamiltonian.basis import OrbitalBasis  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first: a worker that is alone at the end then has only quick tests to run."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _reproducible():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    signatures.start_test()


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[None]:
    """Caches of the tests, also those of processes they start, are not the user's.

    Compiled kernels alone are shared by the workers and kept for the next session, in pytest's cache: their names are
    hashes of the source and the compiler. `pytest --cache-clear` compiles all of them again.
    """
    caches = tmp_path_factory.mktemp("caches")
    if pytestconfig.pluginmanager.hasplugin("cacheprovider"):
        kernels = pytestconfig.cache.mkdir("kernels")
        kernels.chmod(0o700)  # the package loads no code from a folder that others can write
        (caches / "tracegrad").mkdir()
        (caches / "tracegrad" / "kernels").symlink_to(kernels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(caches))
        yield


@pytest.fixture(scope="session")
def basis() -> OrbitalBasis:
    """def2-SVP of the elements of QH9."""
    return OrbitalBasis.def2_svp()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No type checks: for `torch.compile`, and for errors that a type check would forestall."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

"""Shapes and types in the signatures of tracegrad are checked in tests only.

The hook has to stand before the first import of tracegrad.
"""

from collections.abc import Iterator

import jaxtyping
from jaxtyping import install_import_hook

HOOK = install_import_hook("tracegrad", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

from tracegrad.hamiltonian.basis import OrbitalBasis  # noqa: E402


@pytest.fixture(autouse=True)
def _reproducible():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of the tests, also those of processes they start, are not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
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

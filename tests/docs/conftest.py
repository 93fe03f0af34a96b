from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(scope="module", autouse=True)
def _as_readers_run_it() -> Iterator[None]:
    """Readers have no checks of types: they may give a list of numbers where a signature names an array."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

from collections.abc import Iterator

import pytest

from tests.data.fetch.server import Site, serving


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    """A server without files."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Site()) as served:
        yield served

import pytest

from tracegrad.ops import native


@pytest.fixture
def fresh():
    """Forget what was compiled and warned of before."""
    caches = (native._library, native._command, native._has_compiler, native._folder, native._warn_once)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()

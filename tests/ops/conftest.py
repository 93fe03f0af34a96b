from functools import cache
from typing import Any

import pytest

from tracegrad.ops import native
from tracegrad.ops.gpu import triton


@pytest.fixture(scope="session", autouse=triton() is not None)
def _quick_interpreter():
    """Triton's interpreter lists Triton's whole language at each call of a function; the names are listed once."""
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    @cache
    def names(package: Any) -> list[str]:
        return [name for name in dir(package) if is_builtin(getattr(package, name))]

    def patch_builtin(package: Any, *others: Any) -> None:
        for name in names(package):
            member = getattr(package, name)
            if is_builtin(member):  # otherwise it is patched already
                interpreter._patch_attr(package, name, member, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", patch_builtin)
        yield


@pytest.fixture
def fresh():
    """Forget what was compiled and warned of before."""
    caches = (native._library, native._command, native._has_compiler, native._folder, native._warn_once)
    for found in caches:
        found.cache_clear()
    yield
    for found in caches:
        found.cache_clear()

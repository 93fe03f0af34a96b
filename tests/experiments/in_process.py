"""Commands that run in the process of the tests."""

import contextlib
from collections.abc import Callable

import pytest


def caller(
    name: str, main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A function that runs the command with its arguments and returns what it prints, or its error."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        captured = capsys.readouterr()
        return captured.err or captured.out

    return call


def status_of(name: str, main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of a command with its arguments."""
    monkeypatch.setattr("sys.argv", [name, *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0

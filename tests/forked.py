"""Commands as processes of their own that start at once, forked from one Python per session of the tests.

Use `subprocess` where the start itself is tested: a missing package, a closed pipe, a launcher.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 240.0


class Forked:
    """A started process.

    Args:
        main: the module that it runs.
        arguments: of the command.
        environment: of the process.
        folder: where it runs.
    """

    def __init__(self, main: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path):
        self.arguments = [main, *arguments]
        self.code: int | None = None
        _, outputs = _server()
        self._outputs = [_empty_file(outputs) for _ in range(2)]
        stdout, stderr = map(str, self._outputs)
        self.pid = _ask(
            main=main,
            arguments=[*arguments],
            environment=dict(environment),
            folder=str(folder),
            stdout=stdout,
            stderr=stderr,
        )

    def poll(self, seconds: float = 0.0) -> int | None:
        """The exit status, as `subprocess` gives it; None where it is still running after ``seconds``."""
        if self.code is None:
            self.code = _ask(wait=self.pid, seconds=seconds)
        return self.code

    def printed(self) -> str:
        """What it has printed so far."""
        return self._outputs[0].read_text()

    def kill(self) -> None:
        """Kill it, if it is still running, and wait for its end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.poll(SECONDS)

    def wait(self, seconds: float = SECONDS) -> subprocess.CompletedProcess:
        """The end of the process, with its output.

        Raises:
            TimeoutExpired: it is still running after ``seconds``, and is killed.
        """
        code = self.poll(seconds)
        if code is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, seconds)
        out, err = (path.read_text() for path in self._outputs)
        return subprocess.CompletedProcess(self.arguments, code, out, err)


def start(
    main: str, *arguments: str, environment: Mapping[str, str] | None = None, folder: Path = ROOT
) -> Forked:
    """Start `python -m main argument ...`.

    Args:
        main: the module.
        arguments: of the command.
        environment: of the process; that of the tests by default.
        folder: where it runs.
    """
    return Forked(main, arguments, os.environ if environment is None else environment, folder)


def run(
    main: str, *arguments: str, environment: Mapping[str, str] | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess:
    """The same, and wait for its end."""
    return start(main, *arguments, environment=environment, folder=folder).wait()


def _empty_file(folder: str) -> Path:
    handle, path = tempfile.mkstemp(dir=folder)
    os.close(handle)
    return Path(path)


@cache
def _server() -> tuple[subprocess.Popen, str]:
    folder = tempfile.TemporaryDirectory(prefix="tracegrad-tests-")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fork_server"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        if process.poll() is None:
            process.communicate()  # it ends where its input ends
        folder.cleanup()

    atexit.register(end)
    return process, folder.name


def _ask(**request: object) -> int | None:
    process, _ = _server()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BaseException:  # a timeout of pytest, say: the next line would be the answer to this request
        process.kill()
        process.communicate()
        _server.cache_clear()
        raise
    assert answer, "the process of tests.fork_server has ended"
    return json.loads(answer)

"""The commands and the Python of README and documentation run as they stand there."""

import shutil
from pathlib import Path

import pytest
import yaml

from experiments.settings.configuration import composed
from tests.docs.pages import DOCS, EXECUTED, ROOT, Reader, blocks, commands, words

START = DOCS / "get-started.md"
# Pages whose code stands in tests of its own: each of them builds a small extension and trains it.
PROVEN_ELSEWHERE = "extend-a-*.md"
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if page != START and not page.match(PROVEN_ELSEWHERE)),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# Commands whose arguments are not only settings of conf/NAME.yaml.
OF_THEIR_OWN = ("ablate", "fetch", "sweep")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a reader of "Get started" has at its end: the other pages go on from there."""
    folder = tmp_path_factory.mktemp("started")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert Reader(START, folder).read() > 3
    return folder


def has_code(page: Path) -> bool:
    return any(block.language in EXECUTED and block.not_run is None for block in blocks(page.read_text()))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if has_code(page)], ids=lambda page: page.name)
def test_page_runs(page: Path, started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(started, folder)
    monkeypatch.chdir(folder)
    assert Reader(page, folder).read()


@pytest.mark.parametrize("page", [START, *PAGES], ids=lambda page: page.name)
def test_no_command_is_hidden_from_the_tests(page: Path) -> None:
    """Code stands in fenced blocks of bash or Python; a block that is not executed says why, in a whole phrase."""
    text = page.read_text(encoding="utf-8")
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        inside ^= line.strip().startswith("```")
        hidden = line.startswith("    ") and line.strip().startswith(("tracegrad ", "python -m ", "$ "))
        assert inside or not hidden, f"{page.name}:{number}: a command outside of a fenced block"
    for block in blocks(text):
        where = f"{page.name}:{block.line}"
        if block.not_run is not None:
            assert block.language in (*EXECUTED, "console"), f"{where}: only code needs a reason"
            assert len(block.not_run.split()) >= 3, f"{where}: {block.not_run!r} is no reason"
        elif block.language not in EXECUTED:  # output, or the content of a file
            first = block.code.lstrip().split(" ", 1)[0]
            assert first not in ("tracegrad", "python", "$"), f"{where}: a command as {block.language}"


@pytest.mark.parametrize("page", [START, *PAGES], ids=lambda page: page.name)
def test_settings_of_commands_that_are_not_executed(page: Path) -> None:
    """They are composed: an unknown command, key or group option is an error."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.not_run is None or block.language == "python":
            continue
        shown = commands(block.code)
        if block.language == "console":  # a session: commands behind a prompt, and what they print
            shown = [line.removeprefix("$ ") for line in shown if line.startswith("$ ")]
        for command in shown:
            name, *arguments = words(command)
            if name != "tracegrad":
                continue
            module, *arguments = arguments
            if module.startswith("-"):  # an option of the command itself
                continue
            assert (ROOT / "experiments" / f"{module}.py").is_file(), f"{page.name}:{block.line}: {command}"
            if module in OF_THEIR_OWN or any(word.startswith("-") for word in arguments):
                continue
            crystals = module == "generate" and "kind=crystals" in arguments
            composed("generate_crystals" if crystals else module, arguments)


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def listed(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        parts = entry.values() if isinstance(entry, dict) else entry
        return set().union(*map(listed, parts))  # type: ignore[arg-type]

    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert pages <= listed(settings["nav"])


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130

"""Imports run one way: experiments -> callbacks -> tracegrad, and the core knows no framework."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"lightning", "hydra", "wandb"}
# The only places below tracegrad/ that know Lightning.
WITH_LIGHTNING = {"tracegrad/training/module.py", "tracegrad/data/loading/hamiltonian_module.py"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("tracegrad", "callbacks", "experiments", "benchmarks")
    for path in (ROOT / package).rglob("*.py")
)


@cache
def imported(file: str) -> set[str]:
    """Dotted names of all modules that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES)
def test_direction(file: str) -> None:
    names = imported(file)
    tops = {name.split(".")[0] for name in names}
    package = file.split("/")[0]
    forbidden = {
        "tracegrad": {"callbacks", "experiments", "conf", "benchmarks"},
        "callbacks": {"experiments", "conf", "benchmarks"},
        "experiments": {"benchmarks"},
    }
    assert not tops & forbidden.get(package, set())
    if package not in ("experiments", "benchmarks"):
        assert "hydra" not in tops
        assert "wandb" not in tops
    if package == "tracegrad" and file not in WITH_LIGHTNING:
        assert not tops & FRAMEWORKS
    if not file.startswith("benchmarks/"):  # they compare with the oracles of the tests
        assert "tests" not in tops


def test_backbones_do_not_know_tracegrad() -> None:
    for file in FILES:
        if file.startswith("tracegrad/backbones/"):
            assert not any(name.startswith("tracegrad.nn.invariant.tracegrad") for name in imported(file))


MODULES = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}


def targets(name: str) -> set[str]:
    """The modules of this project that a module imports."""
    parents = (
        ".".join(parts[:n])
        for i in imported(MODULES[name])
        if (parts := i.split("."))
        for n in (len(parts), -1)
    )
    return {parent for parent in parents if parent in MODULES and parent != name}


def test_no_cycles_of_modules() -> None:
    assert_one_way({name: targets(name) for name in MODULES})


def test_no_cycles_of_folders() -> None:
    """A folder's ``__init__`` only names what stands in the folder, so it does not count."""

    def folder(name: str) -> str:
        return name if MODULES[name].endswith("__init__.py") else name.rpartition(".")[0]

    graph: dict[str, set[str]] = {}
    for name, file in MODULES.items():
        if not file.endswith("__init__.py"):
            graph.setdefault(folder(name), set()).update(folder(target) for target in targets(name))
    assert_one_way({name: others - {name, "tracegrad"} for name, others in graph.items()})


def test_no_cycles_of_the_rooms_of_the_package() -> None:
    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for name in MODULES:
        if name.startswith("tracegrad."):
            graph.setdefault(room(name), set()).update(map(room, targets(name)))
    assert_one_way({name: others - {name, "tracegrad"} for name, others in graph.items()})


def assert_one_way(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())

"""Imports run one way: experiments -> callbacks -> tracegrad, and the core knows no framework."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"lightning", "hydra", "wandb"}
# The only places below tracegrad/ that know Lightning.
WITH_LIGHTNING = {"tracegrad/module.py", "tracegrad/data/datamodule.py"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("tracegrad", "callbacks", "experiments")
    for path in (ROOT / package).rglob("*.py")
)


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
    forbidden = {"tracegrad": {"callbacks", "experiments", "conf"}, "callbacks": {"experiments", "conf"}}
    assert not tops & forbidden.get(package, set())
    if package != "experiments":
        assert "hydra" not in tops
        assert "wandb" not in tops
    if package == "tracegrad" and file not in WITH_LIGHTNING:
        assert not tops & FRAMEWORKS
    if not file.startswith("experiments/benchmarks/"):  # they compare with the oracles of the tests
        assert "tests" not in tops


def test_backbones_do_not_know_tracegrad() -> None:
    for file in FILES:
        if file.startswith("tracegrad/backbones/"):
            assert not any(name.startswith("tracegrad.nn.tracegrad") for name in imported(file))


def test_no_cycles() -> None:
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}

    def targets(name: str) -> set[str]:
        parents = (
            ".".join(parts[:n])
            for i in imported(modules[name])
            if (parts := i.split("."))
            for n in (len(parts), -1)
        )
        return {parent for parent in parents if parent in modules and parent != name}

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in targets(name):
            visit(target, (*trail, name))
        done.add(name)

    for name in modules:
        visit(name, ())

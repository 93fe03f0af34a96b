"""What a DFT code has to offer, so that databases of crystals can be computed with it.

An engine is a dataclass whose fields are the settings of the code. Each calculation has a folder of its own, in which
the engine writes an input, the generation runs the command, and the engine reads the outputs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ase import Atoms

from tracegrad.data.crystals.structure import Structure


@dataclass(frozen=True)
class FinishedOutputs:
    """What is known about a calculation from its complete outputs.

    Args:
        version: name and version of the code, such as "OpenMX 3.9.9".
        facts: for the provenance of the structure, such as the number of SCF cycles.
        failure: why the matrices must not be used, such as an SCF that did not converge; None if they can be used.
    """

    version: str
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


@runtime_checkable
class Engine(Protocol):
    """A DFT code that computes H and S of crystals in a basis of atomic orbitals."""

    @property
    def title(self) -> str:
        """Name of the code in messages."""

    @property
    def input_name(self) -> str:
        """Name of the input in the folder of a calculation."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs of a finished calculation; the last one holds the matrices."""

    @property
    def advice(self) -> str:
        """How to go on where the code is not installed: one or several lines for the user."""

    def settings(self) -> dict[str, Any]:
        """The settings that determine the numbers; a database is continued only if they are equal."""

    def describe(self, atoms: Atoms) -> dict[str, Any]:
        """The settings of one calculation, for the provenance of its structure."""

    def shells(self, atoms: Atoms) -> dict[int, tuple[int, ...]]:
        """Atomic number -> ascending degrees of the shells, for the elements of a crystal.

        Raises:
            ConfigError: the code has no basis for an element.
        """

    def reach(self, atoms: Atoms) -> float:
        """Distance (angstrom) up to which two atoms of a crystal have a block."""

    def input_text(self, atoms: Atoms, spin_orbit: bool) -> str:
        """The input of a calculation, without what depends on the machine; equal texts mean equal numbers."""

    def write_input(self, atoms: Atoms, spin_orbit: bool, folder: Path) -> None:
        """Write everything that the calculation needs into its folder, which may exist already."""

    def command(self, threads: int) -> list[str] | None:
        """The words of the command that runs in the folder; None if the code is not installed.

        Raises:
            ConfigError: the program that the settings name does not exist.
        """

    def check_installation(self, crystals: Iterable[Atoms]) -> None:
        """Raise `ConfigError` if the installation lacks files that the crystals need."""

    def finished(self, folder: Path) -> FinishedOutputs | None:
        """What the outputs in a folder tell about the calculation; None if they are not complete."""

    def read(self, folder: Path) -> Structure:
        """The structure with H (eV) and S from the outputs in a folder.

        Raises:
            DataError: the outputs are damaged.
        """

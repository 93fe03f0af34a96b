"""The density of states of a molecule beside its levels: table, figure and summary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from experiments.prediction.zone import write_densities
from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.physics.dos.density import DensityOfStates, energy_grid
from tracegrad.physics.dos.molecular import SHARES, group_electrons, level_shares, molecular_density
from tracegrad.physics.dos.orbital_groups import OrbitalGroups, orbital_groups
from tracegrad.physics.molecules.levels import MolecularLevels
from tracegrad.plots.levels import valence_window
from tracegrad.units import MEV

_EV = MEV["hartree"] / MEV["eV"]


class MoleculeDensity:
    """Densities of states of a molecule, as the settings ask for them.

    Args:
        values: settings of ``conf/predict.yaml``.
        numbers: atomic numbers.
        basis: of the network.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self, values: Mapping[str, Any], numbers: Int64[np.ndarray, " atoms"], basis: OrbitalBasis
    ) -> None:
        width = values["dos_width"]
        if type(width) not in (int, float) or not 0 < width < np.inf:
            raise ConfigError(f"dos_width={width} is not understood; give a number above 0, in eV")
        if values["dos_shares"] not in SHARES:
            raise ConfigError(
                f"dos_shares={values['dos_shares']} is not one of {', '.join(SHARES)}; give one of them"
            )
        if values["dos_method"] == "polynomial":
            raise ConfigError("dos_method=polynomial is for large crystals; leave it out for a molecule")
        self.width, self.kind = float(width), str(values["dos_shares"])
        self.groups: OrbitalGroups = orbital_groups(numbers, basis, values["dos_groups"])

    def __call__(
        self, predicted: MolecularLevels, dft: MolecularLevels | None, overlap: Float[np.ndarray, "n n"]
    ) -> tuple[list[DensityOfStates], dict[str, Any]]:
        """Densities, that of DFT first if it is known, and what the summary says about that of the prediction."""
        ladders = [predicted] if dft is None else [dft, predicted]
        energies = energy_grid(*valence_window(ladders), self.width)
        shares = [level_shares(one.coefficients, overlap, self.groups, self.kind) for one in ladders]
        densities = [
            molecular_density(one, share, self.groups, energies, self.width)
            for one, share in zip(ladders, shares, strict=True)
        ]
        electrons = group_electrons(predicted, shares[-1]).tolist()
        summary = {
            "width_ev": self.width,
            "shares": self.kind,
            "electrons": dict(zip(self.groups.names, electrons, strict=True)),
        }
        return densities, summary

    def line(self, summary: Mapping[str, Any]) -> str:
        """The electrons of each group as text."""
        shown = " ".join(f"{name} {count:.2f}," for name, count in summary["electrons"].items())
        return f"electrons ({self.kind}): {shown.rstrip(',')}"

    def write(self, densities: list[DensityOfStates], homo: float, path: Path) -> None:
        """Write the table; ``homo`` is an energy in hartree, that of DFT if it is known."""
        write_densities(densities, homo * _EV, path, zero="homo")

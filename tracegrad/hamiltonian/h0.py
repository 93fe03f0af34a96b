"""H0: a Hamiltonian that is known before, to which a network adds its prediction of H - H0.

| name             | H0 of a molecule                                                                  |
|------------------|-----------------------------------------------------------------------------------|
| ``core``         | kinetic energy and attraction of the nuclei                                       |
| ``sap``          | kinetic energy and a superposition of atomic potentials (Lehtola 2019)            |
| ``minao-b3lyp5`` | Fock matrix of the density guess of minimal atomic orbitals, with this functional |

and ``minao-`` with b3lyp, pbe and wb97x-d. That of a crystal, ``data``, is read from its files like H: the
Hamiltonian of the first SCF iteration, or any other on the same pairs of atoms.

Graphs carry it like H, as blocks ``h0_self`` and ``h0_edge``.
"""

from jaxtyping import Inexact
from torch import Tensor

from tracegrad.errors import ConfigError, DataError
from tracegrad.hamiltonian.basis import OrbitalBasis

CORE, SAP, MINAO = "core", "sap", "minao-"
DATA = "data"
NAMES = (CORE, SAP, *(MINAO + functional for functional in ("b3lyp5", "b3lyp", "pbe", "wb97x-d")))


def check_h0(name: str | None, basis: OrbitalBasis) -> None:
    """Raise `ConfigError` unless networks of this basis can correct the H0 ``name``; None: they predict all of H."""
    if name is None:
        return
    if name not in (*NAMES, DATA):
        raise ConfigError(
            f"model.h0 is {name!r}; choose {', '.join(NAMES)} (molecules), {DATA} (crystals), or null"
        )
    if basis.periodic and name != DATA:
        raise ConfigError(
            f"model.h0={name}: this H0 is computed for molecules; for crystals set model.h0={DATA}, which reads H0 "
            "from the data, or null"
        )
    if not basis.periodic and name == DATA:
        raise ConfigError(
            f"model.h0={DATA} reads H0 of crystals from their files; of molecules it is computed: choose "
            f"{', '.join(NAMES)}, or null"
        )


def add_h0(
    blocks: dict[str, Inexact[Tensor, "_ dim dim"]], graph, name: str
) -> dict[str, Inexact[Tensor, "_ dim dim"]]:
    """Predicted blocks of H - H0 plus those of H0.

    Raises:
        DataError: the graph does not carry H0.
    """
    if "h0_edge" not in graph:
        raise DataError(
            f"this network predicts H - H0 with H0 = {name}, and the graph has no H0; make it with "
            + ("crystal_graph(..., h0=...)" if name == DATA else "molecule_graph(..., matrices={'h0': ...})")
        )
    return {site: values + graph[f"h0_{site}"] for site, values in blocks.items()}

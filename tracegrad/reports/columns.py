"""The metrics that tables show: log name, printed name, unit, and whether lower or higher is better."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracegrad.reports.challenge import METRIC_B, METRIC_S, metric_key

ALL = "test/h_mae"
INFERENCE = "test/inference_seconds"
# Subset of a test set -> its superscript in the paper (nt: not twisted, t: twisted).
MARKS = {"": "nt", "twisted": "t"}
# Part of a table -> its heading; each part is printed as a separate grid.
PANELS = {
    "accuracy": "",
    "orbitals": "further quantities of the predicted Hamiltonian",
    "acceleration": "acceleration of the self-consistent field",
    "scf": "self-consistent field from the predicted Hamiltonian",
    "time": "inference time",
}


@dataclass(frozen=True)
class Column:
    """A metric of the test set.

    Attributes:
        key: log name.
        name: printed name; MAE^H_x stands for MAE of H with the index x, a subset follows in brackets.
        unit: "" for a number without unit.
        lower_is_better: None for a quantity that is neither good nor bad, such as a count.
        panel: part of the table, a key of `PANELS`.
        digits: decimals.
        over_samples: the quoted spread is the standard deviation over samples (the metric ``KEY_std``), as in
            Table 3 of the paper, and not that over seeds.
    """

    key: str
    name: str
    unit: str = "meV"
    lower_is_better: bool | None = True
    panel: str = "accuracy"
    digits: int = 3
    over_samples: bool = False

    @property
    def math(self) -> str:
        """The name, such as MAE^H_cha_s (nt), as mathematics that both LaTeX and matplotlib understand."""
        name, _, mark = self.name.partition(" (")
        head, index = name, ""
        for quantity, symbol in (("^H", "H"), ("^eps", r"\epsilon")):
            if quantity in name:
                head, _, index = name.partition(quantity)
                subscript = index.removeprefix("_").replace("_", r"\_")
                index = f"^{{{symbol}}}" + (rf"_{{\mathrm{{{subscript}}}}}" if subscript else "")
        text = rf"$\mathrm{{{head}}}{index}$" if index else head.replace("psi", r"$\psi$")
        if mark:
            text += (
                rf"$^{{\mathrm{{{mark.removesuffix(')')}}}}}$" if mark[:-1] in MARKS.values() else f" ({mark}"
            )
        return text


ACCELERATION = tuple(
    Column(f"test/{ratio}_{guess}", f"{name} ratio, {guess}", "", lower, "acceleration", 3, over_samples=True)
    for guess in ("1e", "minao")
    for ratio, name, lower in (
        ("achieved_ratio", "achieved", True),
        ("error_level_ratio", "error-level", False),
    )
)
SCF = (
    *(
        Column(f"test/scf_seconds_saved_{g}", f"core time saved, {g}", "s", False, "scf", 2)
        for g in ("1e", "minao")
    ),
    *(Column(f"test/scf_energy_error_{i}", f"energy error, step {i}", panel="scf") for i in (1, 2)),
    Column("test/scf_same_state", "same state", "", None, "scf"),
    *(
        Column(f"test/scf_level_not_reached_{g}", f"level not reached, {g}", "", None, "scf", 0)
        for g in ("1e", "minao")
    ),
    Column("test/scf_not_converged", "not converged", "", None, "scf", 0),
    Column("test/scf_molecules", "molecules", "", None, "scf", 0),
)
TIME = (
    Column(INFERENCE, "time a sample", "s", True, "time", 4),
    Column("test/inference_batch_size", "batch size", "", None, "time", 0),
)
MOLECULES = (
    Column(ALL, "MAE^H_all"),
    Column("test/h_mae_diag", "MAE^H_diag"),
    Column("test/h_mae_nondiag", "MAE^H_nondiag"),
    Column("test/eps_mae", "MAE^eps"),
    Column("test/psi_cosine", "Sim(psi)", "", lower_is_better=False),
    Column("test/h_mae_shifted", "MAE^H_shifted", panel="orbitals"),
    Column("test/eps_mae_shifted", "MAE^eps_shifted", panel="orbitals"),
    Column("test/psi_overlap", "overlap of psi", "", False, "orbitals"),
    Column("test/psi_overlap_levels", "overlap of levels", "", False, "orbitals"),
    Column("test/homo_error", "HOMO error", panel="orbitals"),
    Column("test/lumo_error", "LUMO error", panel="orbitals"),
    Column("test/gap_error", "gap error", panel="orbitals"),
    *ACCELERATION,
    *SCF,
    *TIME,
)
# The columns of crystals, repeated for each subset of the test set.
CRYSTALS = (Column(ALL, "MAE^H_all"), Column(METRIC_S, "MAE^H_cha_s"), Column(METRIC_B, "MAE^H_cha_b"))
SHIFTED = Column("test/h_mae_shifted", "MAE^H_shifted", panel="orbitals")


def columns_of(crystal: bool, subsets: Sequence[str]) -> tuple[Column, ...]:
    """All columns that a table of molecules, or a table of crystals with these subsets, can have."""
    if not crystal:
        return MOLECULES
    of_subsets = tuple(
        replace(column, key=metric_key(column.key, subset), name=column.name + superscript(subset, subsets))
        for columns in (CRYSTALS, (SHIFTED,))
        for subset in subsets
        for column in columns
    )
    return of_subsets + TIME


def superscript(subset: str, subsets: Sequence[str]) -> str:
    """The paper's superscript of a subset in brackets; "" for a test set without subsets."""
    return f" ({MARKS.get(subset, subset)})" if tuple(subsets) != ("",) else ""

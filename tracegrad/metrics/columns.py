"""What tables, files and figures say about each metric: one `Column` for each number that a metric computes.

A metric declares its columns once, here or in its class (``columns``, see `callbacks.log_metric.LogMetric`).
Everything else reads the declaration: the table in the terminal, ``results.json``, reports and figures.
"""

import re
from dataclasses import dataclass, fields

from tracegrad.errors import ConfigError

# Section of a table -> its heading (of other sections: their name). Each section is printed as a separate grid.
PANELS = {
    "accuracy": "",
    "orbitals": "further quantities of the predicted Hamiltonian",
    "acceleration": "acceleration of the self-consistent field",
    "scf": "self-consistent field from the predicted Hamiltonian",
    "time": "inference time",
}
# MAE^H_cha_s (nt): a quantity, H or eps, an index and a subset.
_FORMULA = re.compile(r"(\w+?)\^(H|eps)(?:_(\w+))?(?: \((\w+)\))?")


@dataclass(frozen=True)
class Column:
    """How a metric is named and printed.

    Attributes:
        key: name of the metric, such as h_mae; in tables of a test its log name, such as test/h_mae/twisted.
        name: printed name; MAE^H_x stands for MAE of H with the index x, a subset follows in brackets.
        unit: "" for a number without unit. Energies are logged and printed in meV.
        lower_is_better: None for a quantity that is neither good nor bad, such as a count.
        panel: section of the table, see `PANELS`.
        digits: decimals.
        over_samples: the quoted spread is the standard deviation over samples (the metric ``KEY_std``), as in
            Table 3 of the paper, and not that over seeds.

    Raises:
        ConfigError: a value of another type, a key with characters other than letters, digits, "_" and "/", a name
            or section that is empty or contains "$" or a backslash, or more than 15 digits.
    """

    key: str
    name: str
    unit: str = "meV"
    lower_is_better: bool | None = True
    panel: str = "accuracy"
    digits: int = 3
    over_samples: bool = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, expected = getattr(self, entry.name), entry.type
            # In Python a bool is an int too.
            if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):  # type: ignore[arg-type]
                raise ConfigError(
                    f"column {self.key!r}: {entry.name} is {value!r}; see tracegrad.metrics.columns"
                )
        if not re.fullmatch(r"[\w/]+", self.key):
            raise ConfigError(f"column {self.key!r}: write its key with letters, digits and underscores")
        for text in (self.name, self.panel):
            if not text.strip() or re.search(r"[$\\\n]", text):
                raise ConfigError(f"column {self.key!r}: {text!r} is no name; leave out $ and backslashes")
        if not 0 <= self.digits <= 15:
            raise ConfigError(f"column {self.key!r}: digits is {self.digits}; give a number from 0 to 15")

    @property
    def math(self) -> str:
        """The name as mathematics that both LaTeX and matplotlib understand; "" for a name that is plain text."""
        if match := _FORMULA.fullmatch(self.name):
            quantity, symbol, index, subset = (part and part.replace("_", r"\_") for part in match.groups())
            symbol = symbol.replace("eps", r"\epsilon")
            subscript = rf"_{{\mathrm{{{index}}}}}" if index else ""
            mark = rf"$^{{\mathrm{{{subset}}}}}$" if subset else ""
            return rf"$\mathrm{{{quantity}}}^{{{symbol}}}{subscript}$" + mark
        if "psi" in self.name and re.fullmatch(r"[A-Za-z0-9 ()]+", self.name):
            return self.name.replace("psi", r"$\psi$")
        return ""


def log_name(stage: str, key: str, subset: str = "") -> str:
    """The name under which a metric is logged: ``{train,val,test}/{key}[/{subset}]``."""
    return f"{stage}/{key}/{subset}" if subset else f"{stage}/{key}"


GUESSES = ("1e", "minao")
HAMILTONIAN = (
    Column("h_mae", "MAE^H_all"),
    Column("h_mae_diag", "MAE^H_diag"),
    Column("h_mae_nondiag", "MAE^H_nondiag"),
)
# The challenging samples and blocks of crystals, see `tracegrad.reports.challenge`.
CHALLENGE = (Column("h_mae_cha_s", "MAE^H_cha_s"), Column("h_mae_cha_b", "MAE^H_cha_b"))
SHIFTED = Column("h_mae_shifted", "MAE^H_shifted", panel="orbitals")
ORBITALS = (
    Column("eps_mae", "MAE^eps"),
    Column("psi_cosine", "Sim(psi)", "", lower_is_better=False),
    SHIFTED,
    Column("eps_mae_shifted", "MAE^eps_shifted", panel="orbitals"),
    Column("psi_overlap", "overlap of psi", "", False, "orbitals"),
    Column("psi_overlap_levels", "overlap of levels", "", False, "orbitals"),
    Column("homo_error", "HOMO error", panel="orbitals"),
    Column("lumo_error", "LUMO error", panel="orbitals"),
    Column("gap_error", "gap error", panel="orbitals"),
)
ACCELERATION = tuple(
    Column(f"{ratio}_{guess}", f"{name} ratio, {guess}", "", lower, "acceleration", over_samples=True)
    for guess in GUESSES
    for ratio, name, lower in (
        ("achieved_ratio", "achieved", True),
        ("error_level_ratio", "error-level", False),
    )
)
SCF = (
    *(Column(f"scf_seconds_saved_{g}", f"core time saved, {g}", "s", False, "scf", 2) for g in GUESSES),
    Column("energy_mae", "energy error, no step", panel="scf"),
    *(Column(f"scf_energy_error_{i}", f"energy error, step {i}", panel="scf") for i in (1, 2)),
    Column("force_mae", "force error, no step", "meV/A", panel="scf"),
    Column("force_mae_1", "force error, step 1", "meV/A", panel="scf"),
    *(
        column
        for key, name in (("scf_residual", "SCF residual"), ("commutator_norm", "commutator norm"))
        for column in (
            Column(key, name, panel="scf"),
            Column(f"{key}_correlation", f"{name}: rank correlation with MAE", "", None, "scf"),
            Column(
                f"{key}_energy_correlation", f"{name}: rank correlation with energy error", "", None, "scf"
            ),
        )
    ),
    Column("scf_same_state", "same state", "", None, "scf"),
    *(Column(f"scf_level_not_reached_{g}", f"level not reached, {g}", "", None, "scf", 0) for g in GUESSES),
    Column("scf_not_converged", "not converged", "", None, "scf", 0),
    Column("scf_molecules", "molecules", "", None, "scf", 0),
)
INFERENCE = (
    Column("inference_seconds", "time a sample", "s", True, "time", 4),
    Column("inference_batch_size", "batch size", "", None, "time", 0),
)
KNOWN = (*HAMILTONIAN, *CHALLENGE, *ORBITALS, *ACCELERATION, *SCF, *INFERENCE)

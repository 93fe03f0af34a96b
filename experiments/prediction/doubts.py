"""What speaks against a prediction: it lies outside of the training, or several networks disagree."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from tracegrad.elements import SYMBOLS
from tracegrad.system.text_files import write_table

SHOWN = 5  # lines about the same


def print_outside(lines: Sequence[str]) -> None:
    """Warn of what lies outside of the training."""
    if lines:
        print("warning: outside of what the network was trained on (docs/energies.md):", flush=True)
        for line in lines[:SHOWN]:
            print(f"  {line}")
        if len(lines) > SHOWN:
            print(f"  and {len(lines) - SHOWN} more")


def report_spread(
    path: Path,
    numbers: Int[np.ndarray, " atoms"],
    edges: Int[np.ndarray, "edges 5"],
    lengths: Float[np.ndarray, " edges"],
    spreads: Float[np.ndarray, " edges"],
    mean: float,
) -> None:
    """Print by how much several networks differ, and write it for each block, with atoms counted from 1.

    Args:
        path: the table.
        numbers: atomic numbers.
        edges: of the blocks, rows [Rx, Ry, Rz, i, j].
        lengths: distances, angstrom.
        spreads: mean spread of each block, meV.
        mean: spread of the structure, meV.
    """
    names = [f"{SYMBOLS[numbers[i]]}{i + 1}-{SYMBOLS[numbers[j]]}{j + 1}" for i, j in edges[:, 3:].tolist()]
    largest = int(spreads.argmax())
    print(
        f"spread over the networks {mean:.1f} meV; largest in the block {names[largest]}: {spreads[largest]:.1f} meV"
    )
    rows = (
        [*cell, i + 1, j + 1, name, f"{length:.4f}", f"{spread:.3f}"]
        for (*cell, i, j), name, length, spread in zip(edges.tolist(), names, lengths, spreads, strict=True)
    )
    write_table(path, ["Rx", "Ry", "Rz", "i", "j", "atoms", "distance_angstrom", "spread_mev"], rows)

"""Solves reference molecules, without further processes; its arguments are DATABASE CACHE ROWS COMMIT.

Prints the number that is done after each molecule, and at the end the sum of the occupied orbitals of the rows.
"""

import sys
from pathlib import Path

from tracegrad.data.qh9.database import QH9Database
from tracegrad.physics.molecules import cached_molecules
from tracegrad.physics.molecules.solved import SOLVED

if __name__ == "__main__":
    database, cache, rows, commit = sys.argv[1:]
    cached_molecules.COMMIT = int(commit)
    references = cached_molecules.prepare_molecules(
        QH9Database(Path(database)),
        SOLVED,
        range(int(rows)),
        [Path(cache)],
        processes=1,
        report=lambda line: print(line, flush=True),
        on_progress=lambda done, total: print(f"done {done}", flush=True),
    )
    print(sum(references(row).occupied for row in range(int(rows))))

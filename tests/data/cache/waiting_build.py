"""Builds a cache that waits for a file before the last structure; its arguments are FOLDER CACHE FILE."""

import sys
import time
from pathlib import Path

from tracegrad.data.cache.lookup import build_cache
from tracegrad.data.crystal_files.database import CrystalDatabase


class WaitingDatabase(CrystalDatabase):
    def __getitem__(self, index):
        while index == len(self) - 1 and not Path(sys.argv[3]).exists():
            time.sleep(0.01)
        return super().__getitem__(index)


if __name__ == "__main__":
    cache = build_cache(
        WaitingDatabase(Path(sys.argv[1])),
        Path(sys.argv[2]),
        processes=1,
        report=lambda line: print(line, flush=True),
        on_progress=lambda done, total: print(done, total, flush=True),
    )
    print("finished", len(cache), flush=True)

"""Reads geometry files strictly: whatever is in doubt is refused with file, line and what to write instead."""

from tracegrad.extras import require

require("ase")  # all modules of this folder need it

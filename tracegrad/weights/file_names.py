"""Names of the checkpoints in ``checkpoints/`` of a run directory."""

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

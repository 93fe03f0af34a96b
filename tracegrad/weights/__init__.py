"""Networks on disk: checkpoints, exported files, released networks."""

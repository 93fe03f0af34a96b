"""A training run: its parts, resuming, evaluation, loggers and the dry run."""

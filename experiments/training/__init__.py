"""A training run: its parts, resuming, evaluation, loggers and the dry run.

In all modules ``config`` are the settings of a run as Hydra composes them, and ``values`` the same as plain data.
"""

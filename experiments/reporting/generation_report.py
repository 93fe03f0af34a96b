"""Recorded command line of the two commands that generate data."""

import re
import shlex


def public_command(arguments: list[str]) -> str:
    """The command line for the provenance; of absolute paths only the last part remains."""
    shortened = [re.sub(r"(^|[=,\[\s'\"])/[^,\]'\"]*/", r"\1", argument) for argument in arguments]
    return shlex.join(["python", "-m", "experiments.generate", *shortened])

"""The command line that the provenance of generated data records."""

import re
import shlex


def public_command(arguments: list[str]) -> str:
    """The command line for the provenance; of absolute paths only the last part remains."""
    shortened = [re.sub(r"(^|[=,\[\s'\"])/[^,\]'\"]*/", r"\1", argument) for argument in arguments]
    return shlex.join(["python", "-m", "experiments.generate", *shortened])

"""What the two commands that generate data print and record."""

import re
import shlex

from tracegrad.system.progress import ProgressDisplay


class GenerationProgress(ProgressDisplay):
    """Progress with a heading, which is printed at the first step, when the output has been checked.

    Args:
        unit: what is counted.
        heading: says what will be computed.
    """

    def __init__(self, unit: str, heading: str):
        # One label of a large molecule takes longer than the half minute over which a bar estimates its speed.
        super().__init__(unit, seconds=600.0)
        self.heading = heading
        self._move = self.bar("computing")

    def on_progress(self, done: int, total: int) -> None:
        """Print the heading at the first call, and move the bar."""
        if self.heading:
            self.report(self.heading)
        self.heading = ""
        self._move(done, total)

    def warn(self, line: str) -> None:
        """Print a line in yellow."""
        self.report(line, "yellow")


def public_command(arguments: list[str]) -> str:
    """The command line for the provenance; of absolute paths only the last part remains."""
    shortened = [re.sub(r"(^|[=,\[\s'\"])/[^,\]'\"]*/", r"\1", argument) for argument in arguments]
    return shlex.join(["tracegrad", "generate", *shortened])

"""The commands of TraceGrad: ``python -m experiments.NAME --help``."""

import sys

if getattr(sys, "argv", [""])[0] == "-m":  # so Python says while it looks for the module that it will run
    from experiments.settings.entry import prepare

    prepare()
    if len(sys.argv) == 2:
        from experiments.settings.help import show_help_early

        show_help_early()

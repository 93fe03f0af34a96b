"""Where the packages come from; everything else about the installation stands in setup.cfg.

The folders callbacks/, experiments/ and conf/ lie at the top of the repository. Installed like this they would take
names of general use in site-packages, so a wheel has them in ``tracegrad/commands/``. The command ``tracegrad`` puts
that folder on the path of modules (``tracegrad/__main__.py``). An editable installation refers to the checkout, where
all folders keep their places.
"""

import sys

from setuptools import find_packages, setup

FOLDERS = ("callbacks", "experiments", "conf")
PLACE = "tracegrad.commands"

packages = find_packages(include=["tracegrad", "tracegrad.*"])
commands = find_packages(include=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")])
if "editable_wheel" in sys.argv:
    setup(packages=packages + commands)
else:
    setup(
        packages=packages + [f"{PLACE}.{name}" for name in commands],
        package_dir={f"{PLACE}.{name}": name for name in FOLDERS},
    )

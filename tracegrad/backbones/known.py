"""The backbones of this package: every `Backbone` that one of its modules defines."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import tracegrad.backbones

if TYPE_CHECKING:
    from tracegrad.nn.interface import Backbone


@cache
def known_backbones() -> tuple[type["Backbone"], ...]:
    """The backbones, in the order of their modules. A new module in this folder needs no registration."""
    from tracegrad.nn.interface import Backbone  # imported here so that printing tables does not import torch

    names = sorted(module.name for module in iter_modules(tracegrad.backbones.__path__))
    modules = [import_module(f"tracegrad.backbones.{name}") for name in names]
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Backbone)
        and value is not Backbone
        and value.__module__ == module.__name__
    )

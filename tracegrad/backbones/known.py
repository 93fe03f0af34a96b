"""The backbones that come with TraceGrad: every class of a module of this package."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import tracegrad.backbones

if TYPE_CHECKING:
    from tracegrad.nn.interface import Backbone


@cache
def known_backbones() -> tuple[type["Backbone"], ...]:
    """The classes, by the names of their modules; a new file in the folder is known at once."""
    from tracegrad.nn.interface import Backbone  # only here: who prints tables need not wait for torch

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

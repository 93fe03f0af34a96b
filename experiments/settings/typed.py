"""Makes a dataclass of settings from the settings of a command."""

from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from experiments.settings.configuration import plain

Settings = TypeVar("Settings")


def typed(schema: type[Settings], config: DictConfig) -> Settings:
    """The dataclass with the settings of its fields; OmegaConf checks their types. A missing one has its default.

    Raises:
        ConfigError: a setting without a value, or one that the dataclass refuses.
    """
    names = {field.name for field in fields(schema)}  # type: ignore[arg-type]
    values: dict[Any, Any] = {name: value for name, value in plain(config).items() if name in names}
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))  # type: ignore[return-value]

"""Type check of the config values that only the libraries' constructors read.

For a wrong type the constructors raise an error that does not name the file, or accept it silently.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config

from export.checkpoint.config_file import ConfigFile, is_number

_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list", tuple: "a list"}


def check_value_types(folder: Path, component: str) -> None:
    """Compare the types of a component's config values with the library's defaults. Raises CheckpointError."""
    config = ConfigFile.open(folder / component / "config.json")
    for name, default in _defaults(component).items():
        if name in config.values and not _fits(config.values[name], default):
            raise config.refused(name, _KINDS[type(default)])


def _defaults(component: str) -> Mapping[str, Any]:
    if component == "text_encoder":
        defaults: Mapping[str, Any] = UMT5Config().to_dict()
        return defaults
    module = {"vae": AutoencoderKLWan}.get(component, WanTransformer3DModel)
    parameters = inspect.signature(module).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _fits(value: object, default: object) -> bool:
    if type(default) not in _KINDS:
        return True
    if isinstance(default, float):
        return is_number(value)
    if isinstance(default, list | tuple):
        return isinstance(value, list)
    return type(value) is type(default)

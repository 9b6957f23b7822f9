"""LoRA alpha from outside the tensors: from diffusers' safetensors header or PEFT's `adapter_config.json`.

Without either, and without an `.alpha` tensor, alpha equals the rank, so the factor of a product is 1.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.checkpoint.config_file import CheckpointError, is_number, object_without_repeats, read_object
from wan_t2v.installed_files import sha256_of_file

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_IN_HEADER = "lora_adapter_metadata"  # written by diffusers' `save_lora_weights`
_PREFIXES = ("transformer_2.", "transformer.")
_UNSUPPORTED = ("use_dora", "use_qalora", "fan_in_fan_out")
_MOST_CHARACTERS, _MOST_OPERATORS = 500, 3
_OPERATORS = re.compile(r"(?:[\w.^$|*+?()\[\]-]|\(\?:|\\[.dw])*")
_ESCAPED_OR_CHOSEN = re.compile(r"\\.|\[[^]]*\]")
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # beginnings of PEFT's `init_lora_weights`


@dataclass(frozen=True)
class AdapterConfig:
    """PEFT's scaling of LoRA products.

    Attributes:
        alpha: of every module that `by_module` does not match.
        by_module: alpha by pattern, PEFT's `alpha_pattern`.
        by_root_of_rank: whether alpha is divided by the root of the rank (`use_rslora`) and not by the rank.
        sha256: hash of `adapter_config.json`; None if the settings are in the header.
    """

    alpha: float
    by_module: Mapping[str, float] = field(default_factory=dict)
    by_root_of_rank: bool = False
    sha256: str | None = None

    def factor(self, names: Sequence[str], rank: int) -> float:
        """Return the factor of a module's product. `names` are the module's names here and in the file.

        As in PEFT, a pattern matches the end of a name.
        """
        patterns = (
            pattern for pattern in self.by_module if any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in names)
        )
        alpha = self.by_module.get(next(patterns, ""), self.alpha)
        return alpha / (math.sqrt(rank) if self.by_root_of_rank else rank)


def adapter_config(path: Path, metadata: Mapping[str, str]) -> AdapterConfig | None:
    """Read the scaling of the LoRA at `path`, whose header has `metadata`. None if there is none.

    Raises CheckpointError.
    """
    beside = path.with_name(PEFT_CONFIG)
    if _IN_HEADER in metadata:
        return _parsed(f"the header of {path}", _without_prefix(_object(path, metadata[_IN_HEADER])))
    if path.name == PEFT_FILE and beside.exists():
        return _parsed(str(beside), read_object(beside), file_sha256=sha256_of_file(beside))
    return None


def _parsed(where: str, raw: Mapping[str, Any], *, file_sha256: str | None = None) -> AdapterConfig | None:
    set_options = [name for name in _UNSUPPORTED if raw.get(name)]
    if set_options:
        raise CheckpointError(f"{where}: {set_options[0]} is set, accepted: a plain LoRA, or rank-stabilised.")
    _check_base_is_kept(where, raw.get("init_lora_weights"))
    if "lora_alpha" not in raw:
        return None
    by_module = raw.get("alpha_pattern") or {}
    if not is_number(raw["lora_alpha"]) or not _is_pattern_table(by_module):
        raise CheckpointError(f"{where}: lora_alpha must be a number, alpha_pattern numbers by module. Save it again.")
    _check_patterns(where, by_module)
    if 0 in (raw["lora_alpha"], *by_module.values()):
        raise CheckpointError(
            f"{where}: an alpha is 0, which changes nothing; accepted: other numbers. Save the LoRA with its own alpha."
        )
    return AdapterConfig(float(raw["lora_alpha"]), by_module, bool(raw.get("use_rslora")), file_sha256)


def _check_base_is_kept(where: str, init: object) -> None:
    """Refuse an adapter whose training began by changing the base weights, so that its products alone are not enough.

    Raises CheckpointError.
    """
    if isinstance(init, str) and init.lower().startswith(_CHANGE_THE_BASE):
        raise CheckpointError(
            f"{where}: init_lora_weights is {init!r}, which changed the weights that it was trained on; accepted: "
            "a LoRA beside unchanged weights. Save it as one: PEFT's "
            "`save_pretrained(..., path_initial_model_for_weight_conversion=...)`. It has no such conversion for loftq."
        )


def _check_patterns(where: str, patterns: Iterable[str]) -> None:
    """Refuse patterns that may take forever to match, as repeated groups do. Raises CheckpointError."""
    for pattern in patterns:
        if not _is_quick(pattern):
            raise CheckpointError(
                f"{where}: alpha_pattern has {pattern[:60]!r}, accepted: modules' names of up to {_MOST_CHARACTERS} "
                f"characters, with up to {_MOST_OPERATORS} of * + ? and {_MOST_OPERATORS} groups, none repeated. "
                "Save the LoRA with the names of its modules."
            )


def _is_quick(pattern: str) -> bool:
    plain = _ESCAPED_OR_CHOSEN.sub("x", pattern.replace("(?:", "("))
    return (
        len(pattern) <= _MOST_CHARACTERS
        and _OPERATORS.fullmatch(pattern) is not None
        and not re.search(r"\)[*+]|\(\?", plain)
        and sum(map(plain.count, "*+?")) <= _MOST_OPERATORS
        and plain.count("(") <= _MOST_OPERATORS
    )


def _is_pattern_table(raw: object) -> bool:
    if not isinstance(raw, dict) or not all(map(is_number, raw.values())):
        return False
    try:
        return all(re.compile(pattern) for pattern in raw)
    except re.error:
        return False


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=object_without_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {_IN_HEADER} in its header is no JSON ({error}). Save it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: {_IN_HEADER} in its header is no object. Save the LoRA again.")
    return content


def _without_prefix(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {next((name.removeprefix(p) for p in _PREFIXES if name.startswith(p)), name): raw[name] for name in raw}

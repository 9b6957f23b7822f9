"""Settings and values of a request's fields, from its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_t2v.contract import REQUEST, Dtype
from wan_t2v.facts import ServingDefaults
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.sizes import ServedSizes
from wan_t2v.field_checks.texts import check_word
from wan_t2v.request import Settings, resolve_settings
from wan_t2v.serving.python_backend.tensors import bytes_from_triton
from wan_t2v.shapes import LatentGrid
from wan_t2v.tokens import clean_and_check_prompt

_PROMPTS = ("prompt", "negative_prompt")
_TEXTS = frozenset(field.name for field in REQUEST if field.dtype is Dtype.BYTES)


@dataclass(frozen=True)
class FieldChecks:
    """Checks of all fields of a request, by a deployment's defaults, latent grid and served sizes."""

    defaults: ServingDefaults
    grid: LatentGrid
    served: ServedSizes

    def settings(self, tensors: Mapping[str, Any], *, fallback_seed: int) -> Settings:
        """Return the settings of a request's tensors, by name. Raises InvalidField for the first wrong one."""
        latents = tensors["latents"].as_numpy() if "latents" in tensors else None
        settings = resolve_settings(
            {name: field_value(name, tensor) for name, tensor in tensors.items() if name != "latents"},
            latents_shape=None if latents is None else latents.shape,
            defaults=self.defaults,
            grid=self.grid,
            served=self.served,
            fallback_seed=fallback_seed,
        )
        if latents is not None:  # of the right shape by now, so no more than a clip's
            _check_finite(latents)
        return settings


def field_value(name: str, tensor: Any) -> str | int | float:
    """Return the one element of a field's tensor; texts are decoded, prompts also cleaned. Raises InvalidField."""
    if name in _PROMPTS:
        return clean_and_check_prompt(name, bytes_from_triton(tensor))
    if name in _TEXTS:
        return check_word(name, bytes_from_triton(tensor))
    element: np.generic = tensor.as_numpy().reshape(-1)[0]
    value: int | float = element.item()
    return value


def _check_finite(latents: NDArray[Any]) -> None:
    """Reject starting noise with NaN or infinite values. Raises InvalidField."""
    wrong = latents.size - int(np.isfinite(latents).sum())
    if wrong:
        raise InvalidField("latents", f"{wrong} values of {latents.size} that are not finite", "finite numbers")

"""Find models that were unloaded, but not by an expert swap: nothing else would load them again."""

from collections.abc import Iterable, Set
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from embedded.options import ServerOptions
from wan_t2v.contract import STREAM, UNARY
from wan_t2v.operate.probe import ITS_LOOP, SWAPPED

CALL_LIMIT_S = 5.0
_UNLOADED = "unloaded"  # the index's reason; after a failed load it has the error


class UnloadedModels:
    """Unloaded models of one server's repository; the model `tensor_check` is in another one and does not count.

    A denoiser that swaps its experts unloads them on purpose and loads the one that it needs. It holds a lock only
    during a clip, but leaves one expert unloaded between clips too. So its configuration decides here, not the lock.
    """

    def __init__(self, options: ServerOptions, client: tritonclient.grpc.InferenceServerClient) -> None:
        self._options, self._client = options, client
        there = (config.parent.name for config in options.repository.glob("*/config.pbtxt"))
        self._models = frozenset(options.models or there)
        self._swaps: bool | None = None

    def names(self, *, failed: Set[str]) -> list[str]:
        """Return the models to load next. `failed` are those whose load failed here: the index has another reason.

        The ensemble is last, when no model is being loaded or unloaded. It is unloaded with its models, and loading it
        while one of them is being unloaded reloads all of them.
        """
        try:
            index = self._client.get_model_repository_index(
                headers=self._options.admin_header, client_timeout=CALL_LIMIT_S
            )
        except InferenceServerException:
            return []  # the server is ending or stuck
        gone = [name for name in sorted(self._models) if _is_unloaded(name, index.models, failed)]
        models = [name for name in gone if name != UNARY and (name not in SWAPPED or not self._may_swap())]
        on_its_way = any(entry.state in ("LOADING", "UNLOADING") for entry in index.models)
        return models or ([UNARY] if UNARY in gone and not on_its_way else [])

    def _may_swap(self) -> bool:
        """Whether a denoising loop unloads experts on purpose; true while the loops' configs cannot be read."""
        if self._swaps is None:
            try:
                loops = [model for model in (ITS_LOOP, STREAM) if model in self._models]
                residencies = [self._residency(model) for model in loops or (ITS_LOOP,)]
            except InferenceServerException:
                return True
            self._swaps = "one_at_a_time" in residencies
        return self._swaps

    def _residency(self, model: str) -> str:
        answer = self._client.get_model_config(model, client_timeout=CALL_LIMIT_S)
        return str(answer.config.parameters["expert_residency"].string_value)


def _is_unloaded(name: str, index: Iterable[Any], failed: Set[str]) -> bool:
    versions = [entry for entry in index if entry.name == name]
    return bool(versions) and all(
        entry.state == "UNAVAILABLE" and (entry.reason == _UNLOADED or name in failed) for entry in versions
    )

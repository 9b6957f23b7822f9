"""VAE plans have static shapes: one engine per clip size in a process, one model version per clip size in Triton."""

from collections.abc import Mapping, Sequence
from typing import Any

from wan_t2v.engines.engine import Array, BufferedEngine, Engine
from wan_t2v.engines.tensorrt.profiles import ShapeError
from wan_t2v.facts import ModelFacts
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.shapes import VideoShape


class EngineByShape:
    """A BufferedEngine that passes each call to the first engine that accepts its shapes; ShapeError if none does."""

    def __init__(self, engines: Sequence[BufferedEngine]) -> None:
        self._engines = tuple(engines)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        buffers: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Run the engine that fits; an engine refuses shapes before it does any work."""
        refusals = []
        for engine in self._engines:
            try:
                return engine(inputs, outputs, buffers=buffers)
            except ShapeError as error:
                refusals.append(str(error))
        raise ShapeError(" / ".join(refusals))


def version_of_size(sizes: Sequence[VideoShape], facts: ModelFacts) -> dict[tuple[int, int], int]:
    """Map the latents' (height, width) of each size to its model version.

    Versions count from 1 in the order of `sizes`. Of several sizes with the same latents, the first one counts.
    """
    versions: dict[tuple[int, int], int] = {}
    for version, size in enumerate(sizes, start=1):
        latents = facts.grid.latent_shape(size)
        versions.setdefault((latents.height, latents.width), version)
    return versions


class EngineByVersion:
    """An Engine that selects a model version's Engine by the last two axes of `latents`."""

    def __init__(self, engines: Mapping[tuple[int, int], Engine]) -> None:
        self._engines = engines

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run the version for these latents. Raises InvalidField if there is none, which `prepare` should prevent."""
        height, width = inputs["latents"].shape[-2:]
        if (height, width) not in self._engines:
            accepted = ", ".join(f"{h}x{w}" for h, w in self._engines)
            raise InvalidField("latents", f"height and width {height}x{width}", accepted)
        return self._engines[height, width](inputs, outputs)

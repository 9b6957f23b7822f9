"""Several engines of one graph, each for shapes of its own: the static plans of the VAE, one a size."""

from collections.abc import Mapping, Sequence

from wan_t2v.engines.engine import Array, BufferedEngine
from wan_t2v.engines.profiles import ShapeError


class EngineByShape:
    """A BufferedEngine that gives each call to the first engine that takes its shapes; ShapeError if none does."""

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

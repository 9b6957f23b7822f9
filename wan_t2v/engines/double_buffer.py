"""Double buffering of a graph's caches: each call reads one set and writes the other."""

from collections.abc import Mapping, Sequence

from wan_t2v.contract import CACHE_IN, CACHE_OUT
from wan_t2v.engines.engine import Array, BufferedEngine


class DoubleBufferedCaches:
    """An Engine over a graph with inputs `cache_in_*` and outputs `cache_out_*`.

    Each call writes its caches into the buffers that the call before it read, so a clip of any length needs two sets.
    The caller must pass each set of caches in once and not read it afterwards, as `decode_frames` does. Several clips
    may be decoded at the same time: a set that is in use is never the spare one.
    """

    def __init__(self, engine: BufferedEngine) -> None:
        self._engine = engine
        self._spare: list[dict[str, Array]] = []  # at most one; single list operations need no lock

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the engine. A clip's last call names the outputs that it wants, and releases the spare set."""
        caches = {name.removeprefix(CACHE_IN): array for name, array in inputs.items() if name.startswith(CACHE_IN)}
        read = {CACHE_OUT + index: array for index, array in caches.items()}
        buffers = self._take(read)
        answer = self._engine(inputs, outputs, buffers=buffers)
        if outputs is None:
            self._spare[:] = [read]
        return answer

    def _take(self, read: Mapping[str, Array]) -> dict[str, Array] | None:
        """Take the spare set if its names, shapes and types match the caches that this call reads."""
        try:
            spare = self._spare.pop()
        except IndexError:
            return None
        fits = spare.keys() == read.keys() and all(_alike(spare[name], array) for name, array in read.items())
        return spare if fits else None


def _alike(one: Array, other: Array) -> bool:
    same: bool = one.shape == other.shape and one.dtype == other.dtype
    return same

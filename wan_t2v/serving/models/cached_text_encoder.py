"""The text encoder behind Triton's response cache, which stores a failed call as an empty response for ever.

Triton's cache (2.51 and 2.71 alike) stores the error of a call as a success without outputs, under the bytes of the
call's inputs. After one failed call every later request for the same prompt would fail, since entries do not expire.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_t2v.engines.engine import Array
from wan_t2v.serving.errors import MissingOutput
from wan_t2v.serving.python_backend.model_call import TritonEngine
from wan_t2v.serving.python_backend.tensors import to_triton, torch_from_triton, unread

MODEL = "text_encoder"
REMEMBERED = 256  # prompts with an empty entry; more than the cache holds for A14B

Tokens = dict[str, NDArray[np.int64]]


class CachedTextEncoder:
    """An Engine for one prompt per call, which avoids an empty cache entry by other input bytes for the same prompt.

    It changes the ids of padding. No token attends to padding, and the graph zeroes its rows, so the embeddings stay
    bit-identical but for the sign of those zeros. A prompt that fills the whole text length has no padding. It is
    encoded with a second row of random ids, whose result is dropped. The random ids are remembered, so that later
    requests find the valid entry.

    Outputs stay Triton's tensors in CPU memory: the response cache holds nothing else.
    """

    def __init__(self, pb_utils: Any, *, vocabulary: int) -> None:
        self._pb_utils, self._vocabulary = pb_utils, vocabulary
        self._remote = TritonEngine(pb_utils, MODEL, read=unread, on_cpu=True)
        self._random = np.random.default_rng()
        self._fillers: OrderedDict[bytes, NDArray[np.int64]] = OrderedDict()

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Encode one prompt. Raises ModelCallError."""
        tokens: Tokens = {name: np.asarray(array) for name, array in inputs.items()}
        key = b"".join(array.tobytes() for array in tokens.values())
        filler = self._fillers.get(key)
        if filler is not None:
            self._fillers.move_to_end(key)
        try:
            return self._encode(tokens, filler, outputs)
        except MissingOutput:
            return self._encode(tokens, self._new_filler(key, tokens), outputs)

    def _new_filler(self, key: bytes, tokens: Tokens) -> NDArray[np.int64]:
        filler = self._random.integers(self._vocabulary, size=tokens["input_ids"].shape)
        self._fillers[key] = filler
        self._fillers.move_to_end(key)
        if len(self._fillers) > REMEMBERED:
            self._fillers.popitem(last=False)
        return filler

    def _encode(
        self, tokens: Tokens, filler: NDArray[np.int64] | None, outputs: Sequence[str] | None
    ) -> dict[str, Array]:
        if filler is None:
            return self._remote(tokens, outputs)
        if not tokens["attention_mask"].all():
            return self._remote(in_other_bytes(tokens, filler), outputs)
        answer = self._remote(with_a_second_row(tokens, filler), outputs)
        return {name: to_triton(self._pb_utils, name, torch_from_triton(both)[:1]) for name, both in answer.items()}


def in_other_bytes(tokens: Tokens, filler: NDArray[np.int64]) -> Tokens:
    """Return the same prompt with the filler's ids as its padding."""
    mask = tokens["attention_mask"]
    return {"input_ids": np.where(mask == 0, filler, tokens["input_ids"]), "attention_mask": mask}


def with_a_second_row(tokens: Tokens, filler: NDArray[np.int64]) -> Tokens:
    """Return the same prompt as the first of two rows; the filler is the second."""
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    return {"input_ids": np.concatenate([ids, filler]), "attention_mask": np.concatenate([mask, mask])}

"""An empty entry of Triton's response cache costs one more call of the text encoder, and no request."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.pb_utils import FakePbUtils, FakeResponse, FakeTensor, FakeTritonError
from wan_t2v.engines.engine import Engine
from wan_t2v.engines.loader import EngineSettings, engine_from_file
from wan_t2v.facts import ModelFacts
from wan_t2v.serving.errors import MissingOutput, ModelCallError
from wan_t2v.serving.models import cached_text_encoder
from wan_t2v.serving.models.cached_text_encoder import CachedTextEncoder
from wan_t2v.serving.models.graph import installed_graph
from wan_t2v.tokens import PromptTokenizer, Tokens, text_embeddings

PADDED, FULL = "a red ball rolls left", "a red ball " * 60
FAILURE = "out of memory"


class CachingServer:
    """A text encoder behind a cache as Triton's: keyed by the inputs' bytes alone, and an error is kept as an answer
    without outputs. The next `failures` calls of the model fail.
    """

    def __init__(self, encoder: Engine) -> None:
        self._encoder = encoder
        self.entries: dict[bytes, FakeResponse] = {}
        self.encoded = self.failures = 0

    def answer(self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> FakeResponse:
        key = b"".join(name.encode() + array.tobytes() for name, array in sorted(inputs.items()))
        if key not in self.entries:
            self.encoded += 1
            if self.failures:
                self.failures -= 1
                self.entries[key] = FakeResponse()
                return FakeResponse(failure=FakeTritonError(FAILURE))
            respond_to_all = self._encoder(inputs, outputs)
            self.entries[key] = FakeResponse([FakeTensor(name, array) for name, array in respond_to_all.items()])
        return self.entries[key]


@pytest.fixture(scope="module")
def encoder(repository: Path) -> Engine:
    return engine_from_file(installed_graph(repository / "text_encoder/1"), EngineSettings("onnxruntime", "cpu"))


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> PromptTokenizer:
    folder = repository / "prepare/1"
    return PromptTokenizer(folder, text_length=ModelFacts.read(folder).text_length)


@pytest.fixture
def server(encoder: Engine) -> CachingServer:
    return CachingServer(encoder)


@pytest.fixture
def cached(server: CachingServer, tokenizer: PromptTokenizer) -> CachedTextEncoder:
    return CachedTextEncoder(FakePbUtils(server.answer), vocabulary=tokenizer.vocabulary)


def poison(cached: CachedTextEncoder, server: CachingServer, tokens: Tokens) -> None:
    server.failures = 1
    with pytest.raises(ModelCallError, match=f"text_encoder: {FAILURE}"):
        text_embeddings(tokens, cached)


def embedded(cached: CachedTextEncoder, tokens: Tokens) -> np.ndarray:
    tensor = text_embeddings(tokens, cached)
    assert tensor.name() == "text_embeddings"
    found: np.ndarray = tensor.as_numpy()
    return found


@pytest.mark.parametrize("prompt", [PADDED, "", FULL])
def test_after_a_failure_the_same_prompt_gives_the_same_embeddings_to_the_bit(
    prompt: str, cached: CachedTextEncoder, server: CachingServer, tokenizer: PromptTokenizer, encoder: Engine
) -> None:
    tokens = tokenizer(prompt)
    assert (tokens.attention_mask == 0).any() == (prompt != FULL)
    expected = text_embeddings(tokens, encoder)
    poison(cached, server, tokens)
    for _ in range(3):
        found = embedded(cached, tokens)
        assert found.shape == expected.shape and found.dtype == expected.dtype
        of_tokens = tokens.attention_mask == 1
        assert found[of_tokens].tobytes() == expected[of_tokens].tobytes()
        assert (found + 0.0).tobytes() == (expected + 0.0).tobytes(), "zeros may differ in their sign"
    assert server.encoded == 2, "the call that failed and one more: later requests find the entry that holds something"


def test_a_prompt_that_never_failed_is_asked_for_in_its_own_bytes(
    cached: CachedTextEncoder, server: CachingServer, tokenizer: PromptTokenizer
) -> None:
    for prompt in (PADDED, FULL, PADDED):
        embedded(cached, tokenizer(prompt))
    assert server.encoded == 2


def test_a_failure_of_the_second_try_is_told_and_gets_a_third(
    cached: CachedTextEncoder, server: CachingServer, tokenizer: PromptTokenizer
) -> None:
    tokens = tokenizer(PADDED)
    for _ in range(20):
        poison(cached, server, tokens)
    assert embedded(cached, tokens).any()


def test_another_process_gets_out_of_the_entry_too(
    cached: CachedTextEncoder, server: CachingServer, tokenizer: PromptTokenizer
) -> None:
    poison(cached, server, tokenizer(PADDED))
    for _ in range(3):
        other = CachedTextEncoder(FakePbUtils(server.answer), vocabulary=tokenizer.vocabulary)
        assert embedded(other, tokenizer(PADDED)).any()


def test_prompts_are_forgotten_when_there_are_too_many(
    cached: CachedTextEncoder, server: CachingServer, tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_text_encoder, "REMEMBERED", 2)
    for prompt in ("a", "b", "c"):
        poison(cached, server, tokenizer(prompt))
        embedded(cached, tokenizer(prompt))
    assert len(cached._fillers) == 2 and embedded(cached, tokenizer("a")).any()


def test_an_encoder_that_answers_without_its_output_is_named_and_may_be_tried_again(
    tokenizer: PromptTokenizer,
) -> None:
    pb_utils = FakePbUtils(lambda *_: FakeResponse())
    reason = "text_encoder: cannot answer at the moment, try again: it answered without text_embeddings"
    with pytest.raises(MissingOutput, match=reason) as error_response:
        text_embeddings(tokenizer(PADDED), CachedTextEncoder(pb_utils, vocabulary=tokenizer.vocabulary))
    assert error_response.value.code == "UNAVAILABLE" and len(pb_utils.called) == 2

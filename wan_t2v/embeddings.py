"""Tokens to text embeddings."""

from wan_t2v.engines.engine import Array, Engine
from wan_t2v.tokens import Tokens


def text_embeddings(tokens: Tokens, text_encoder: Engine) -> Array:
    """Encode one prompt: (1, text_length, text_dim), the rows of padding zero."""
    inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    return text_encoder(inputs, ["text_embeddings"])["text_embeddings"]

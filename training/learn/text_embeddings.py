"""Text embeddings of captions as in serving: 64 rows, with zeros for padding."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from export.graphs.text_encoder import TextEncoderGraph


def text_embeddings(
    text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast, *, captions: Sequence[str]
) -> Tensor:
    """Encode captions to embeddings (B, text_length, D), with gradient.

    Only as many tokens are encoded as the longest caption has, since padding is masked and its rows are zero.
    """
    tokens = tokenizer(
        list(captions), padding="longest", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).to(text_encoder.device)
    with torch.autocast(text_encoder.device.type, enabled=False):  # a small module whose unscaled logits need fp32
        states: Tensor = TextEncoderGraph(text_encoder)(tokens.input_ids, tokens.attention_mask)
    return F.pad(states, (0, 0, 0, tokenizer.model_max_length - states.shape[1]))

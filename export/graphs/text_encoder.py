"""Export form of UMT5: token ids to text embeddings. The graph zeroes padding, which WanPipeline does afterwards."""

import torch
from torch import Tensor, nn
from transformers import UMT5EncoderModel

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("text_embeddings",)


class TextEncoderGraph(nn.Module):
    """`(input_ids, attention_mask) -> text_embeddings`.

    Shapes: both inputs (B, text_length) int64; text_embeddings (B, text_length, text_dim).
    The module must be loaded with `attn_implementation="eager"`: the sdpa path does not export with a dynamic length.
    The additive mask is built here because transformers' own mask code adds a dozen nodes.
    """

    def __init__(self, text_encoder: UMT5EncoderModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        dtype = self.text_encoder.get_input_embeddings().weight.dtype
        blocked = (1.0 - attention_mask.to(torch.float32))[:, None, None, :] * torch.finfo(dtype).min
        blocked = blocked.to(dtype).expand(-1, 1, attention_mask.shape[1], -1)  # (B, 1, queries, keys)
        states = self.text_encoder.encoder(input_ids=input_ids, attention_mask=blocked).last_hidden_state
        return states * attention_mask[..., None].to(states.dtype)

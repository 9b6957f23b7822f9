"""Untrained modules of wan-mini: Wan2.2's architecture in small sizes."""

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResidualBlock
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from export.checkpoint.mini import VOCABULARY

WIDTH = 192
HEAD_DIM = 64
BLOCKS = 4
START_LOG_VARIANCE = -6.0  # narrow initial posterior; with the default variance of one, its noise would hide the clip


def new_expert() -> WanTransformer3DModel:
    """Create an untrained expert."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=WIDTH // HEAD_DIM,
        attention_head_dim=HEAD_DIM,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        freq_dim=256,
        ffn_dim=4 * WIDTH,
        num_layers=BLOCKS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )


def new_text_encoder() -> UMT5EncoderModel:
    """Create an untrained UMT5 encoder, with eager attention as in the export."""
    config = UMT5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=HEAD_DIM,
        d_ff=2 * WIDTH,
        num_layers=3,
        num_heads=WIDTH // HEAD_DIM,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        dropout_rate=0.0,
    )
    config._attn_implementation = "eager"
    return UMT5EncoderModel(config)


def new_vae() -> AutoencoderKLWan:
    """Create an untrained VAE with stride 4x8x8. Its 3-D convolutions are channels-last, which is fast in bf16."""
    vae = AutoencoderKLWan(base_dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])
    _let_the_clip_through(vae)
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


@torch.no_grad()
def _let_the_clip_through(vae: AutoencoderKLWan) -> None:
    """Initialise the VAE as linear down- and upsampling.

    With torch's default initialisation, only a seventh of the output depends on the clip.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv3d | nn.Conv2d):
            module.weight *= 3.0**0.5  # torch's initial variance is a third of what preserves a signal's scale
            module.bias.zero_()  # type: ignore[union-attr]  # every convolution of this VAE has one
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight.zero_()
        elif isinstance(module, WanAttentionBlock):
            module.proj.weight.zero_()
    for entry in (vae.encoder.conv_in, vae.decoder.conv_in):
        entry.bias.normal_(
            std=0.5
        )  # norms keep only a vector's direction: without an offset, grey and white would be equal
    log_variance = slice(vae.config.z_dim, None)
    vae.quant_conv.weight[log_variance] *= 0.1
    vae.quant_conv.bias[log_variance] = START_LOG_VARIANCE

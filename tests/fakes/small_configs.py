"""Config files of a small network of A14B's architecture."""

import copy
from typing import Any

from export.to_onnx.a14b_dummy import A14B_CONFIGS


def small_configs(*, layers: int = 2) -> dict[str, dict[str, Any]]:
    """Return the config files by path."""
    configs = copy.deepcopy(dict(A14B_CONFIGS))
    for name in ("transformer/config.json", "transformer_2/config.json"):
        configs[name].update(num_attention_heads=2, attention_head_dim=64, ffn_dim=256, num_layers=layers, text_dim=64)
    configs["text_encoder/config.json"].update(
        d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=layers, vocab_size=1024
    )
    configs["vae/config.json"].update(base_dim=8)
    return configs

"""Dummy of Wan2.2-T2V-A14B: its config files, and tensors with its names, types and shapes but without values.

The shards are sparse files: 126 GB in size, and almost nothing on disk. They read as zeros, so graphs made from them
can be checked and compiled, but must not be run. The tokenizer is another one, of wan-mini's kind.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.atomic import write_folder_atomically
from export.checkpoint.architecture import WANS_TEXT_LENGTH
from export.checkpoint.layout import MADE_BY_DRY_RUN, is_of_a_dry_run
from export.checkpoint.meta_module import shell_of
from export.checkpoint.mini_tokenizer import train_tokenizer
from export.checkpoint.weights.component_weights import EMBEDDINGS
from export.checkpoint.weights.safetensors_index import BYTES_OF, header_of, tensors_of_file
from export.checkpoint.weights.weight_files import weight_stem

SHARD_BYTES = 5_000_000_000
# With these types the folder has the published size, 118 GiB, and an expert its twelve shards.
STORED = {"transformer": "F32", "transformer_2": "F32", "text_encoder": "BF16", "vae": "F32"}

_EXPERT: dict[str, Any] = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": "0.35.0.dev0",
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "pos_embed_seq_len": None,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
A14B_CONFIGS: Mapping[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.35.0.dev0",
        "boundary_ratio": 0.875,
        "expand_timesteps": False,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    },
    "transformer/config.json": _EXPERT,
    "transformer_2/config.json": _EXPERT,
    "text_encoder/config.json": {
        "architectures": ["UMT5EncoderModel"],
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-06,
        "model_type": "umt5",
        "num_heads": 64,
        "num_layers": 24,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 256384,
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": "0.35.0.dev0",
        "attn_scales": [],
        "base_dim": 96,
        "dim_mult": [1, 2, 4, 4],
        "dropout": 0.0,
        # fmt: off
        "latents_mean": [
            -0.7571,
            -0.7089,
            -0.9113,
            0.1075,
            -0.1745,
            0.9653,
            -0.1517,
            1.5508,
            0.4134,
            -0.0715,
            0.5517,
            -0.3632,
            -0.1922,
            -0.9497,
            0.2503,
            -0.2921,
        ],
        "latents_std": [
            2.8184,
            1.4541,
            2.3275,
            2.6558,
            1.2196,
            1.7708,
            2.6052,
            2.0743,
            3.2687,
            2.1526,
            2.8652,
            1.5579,
            1.6382,
            1.1253,
            2.8251,
            1.9160,
        ],
        # fmt: on
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "z_dim": 16,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": "0.35.0.dev0",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "final_sigmas_type": "zero",
        "flow_shift": 3.0,
        "lower_order_final": True,
        "num_train_timesteps": 1000,
        "predict_x0": True,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "solver_type": "bh2",
        "thresholding": False,
        "timestep_spacing": "linspace",
        "use_flow_sigmas": True,
    },
}
# Parameters of each graph, counted on A14B's architecture. A VAE graph has the decoder's and post_quant_conv's.
A14B_PARAMETERS = {
    "text_encoder": 5_680_910_336,
    "high_noise_expert": 14_288_491_584,
    "low_noise_expert": 14_288_491_584,
    "vae_decoder_first": 73_295_331 + 272,
    "vae_decoder_next": 73_295_331 + 272,
}


def write_dummy(
    folder: Path,
    configs: Mapping[str, Mapping[str, Any]] = A14B_CONFIGS,
    *,
    stored: Mapping[str, str] = STORED,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the dummy to `folder`, atomically. `stored` is the type of each component's tensors.

    Returns `folder`. `shard_bytes` is the largest size of a shard's data.
    Raises OccupiedFolderError for a folder that holds something other than a dummy.
    """
    with write_folder_atomically(folder, made_here=is_of_a_dry_run) as partial:
        (partial / MADE_BY_DRY_RUN).touch()
        for name, config in configs.items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        train_tokenizer(vocabulary=1024, text_length=WANS_TEXT_LENGTH).save_pretrained(partial / "tokenizer")
        for component, dtype in stored.items():
            shapes = {name: tuple(tensor.shape) for name, tensor in shell_of(partial, component).state_dict().items()}
            shapes.pop(EMBEDDINGS[1], None)  # the published checkpoint stores the embedding under its first name only
            _write_shards(partial / component / weight_stem(component), shapes, dtype, shard_bytes=shard_bytes)
    return folder


_ShapeTable = dict[str, tuple[int, ...]]


def _write_shards(stem: Path, shapes: _ShapeTable, dtype: str, *, shard_bytes: int) -> None:
    """Write shards of at most `shard_bytes` and their index, or a single file without an index."""
    shards = list(_split(shapes, BYTES_OF[dtype], shard_bytes))
    if len(shards) == 1:
        write_sparse(stem.with_name(f"{stem.name}.safetensors"), shards[0], dtype)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        path = stem.with_name(f"{stem.name}-{number:05}-of-{len(shards):05}.safetensors")
        write_sparse(path, shard, dtype)
        weight_map.update(dict.fromkeys(shard, path.name))
    index = {"metadata": {}, "weight_map": weight_map}
    stem.with_name(f"{stem.name}.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _split(shapes: _ShapeTable, itemsize: int, shard_bytes: int) -> Iterator[_ShapeTable]:
    shard: _ShapeTable = {}
    size = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * itemsize
        if shard and size + nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += nbytes
    yield shard


def write_sparse(path: Path, shapes: _ShapeTable, dtype: str) -> None:
    """Write a safetensors file with a valid header and a hole for its data. One value of an embedding is not zero."""
    header = header_of({name: (dtype, shape) for name, shape in shapes.items()}, {})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(map(math.prod, shapes.values())) * BYTES_OF[dtype])
    if EMBEDDINGS[0] in shapes:  # the checkpoint's check refuses an embedding of zeros
        with path.open("r+b") as file:
            file.seek(tensors_of_file(path)[EMBEDDINGS[0]].offset)
            file.write(b"\x3f\x80")

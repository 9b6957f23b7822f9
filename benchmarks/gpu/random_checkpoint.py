"""Checkpoint of A14B's shapes with random weights, which are the same numbers on every machine.

Values are uniform, so a matrix product keeps its input's size, norms are near one, and the decoder's last convolution
is weak, so frames are nearly grey: noise would cost the video encoder more than real frames do.
"""

import copy
import math
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.scale import A14B, Scale
from export.checkpoint.weights.safetensors_index import SAMPLE_BYTES, StoredTensor, stored_tensors
from export.checkpoint.weights.tensor_values import TORCH_TYPES
from export.to_onnx.a14b_dummy import A14B_CONFIGS, write_dummy

STORED = {"transformer": "BF16", "transformer_2": "BF16", "text_encoder": "BF16", "vae": "F32"}
_BLOCK = (1 << 22) + 3  # values that repeat. It divides no row of a matrix, so that no two rows are equal.
_THREADS = 16
_LAST = "decoder.conv_out.weight"


def configs_of(scale: Scale) -> dict[str, dict[str, Any]]:
    """Return the config files by path: A14B's, or those of a network with the scale's dimensions."""
    configs = copy.deepcopy(dict(A14B_CONFIGS))
    if scale.dims == A14B:
        return configs
    dims = scale.dims
    for name in ("transformer/config.json", "transformer_2/config.json"):
        configs[name].update(
            num_attention_heads=dims.heads,
            attention_head_dim=dims.head_dim,
            ffn_dim=dims.ffn_dim,
            num_layers=scale.most_blocks,
            text_dim=dims.text_dim,
        )
    encoder = {"d_model": dims.text_dim, "d_kv": 16, "d_ff": 64, "num_heads": 2, "num_layers": 2, "vocab_size": 1024}
    configs["text_encoder/config.json"].update(encoder)
    configs["vae/config.json"].update(base_dim=8)
    return configs


def write_random_checkpoint(folder: Path, scale: Scale) -> Path:
    """Write the checkpoint with the first 4 KiB of each tensor, and return it: enough for hashes and for tracing."""
    write_dummy(folder, configs_of(scale), stored=STORED)
    _fill_all(folder, STORED, limit=SAMPLE_BYTES)
    return folder


def complete(folder: Path) -> None:
    """Write all values. The second expert's files become links to the first one's: 28.6 GB less to write."""
    for path in (folder / "transformer").glob("*.safetensors"):
        second = folder / "transformer_2" / path.name
        second.unlink()
        second.symlink_to(path.resolve())
    _fill_all(folder, [component for component in STORED if component != "transformer_2"])


def _fill_all(folder: Path, components: Iterable[str], *, limit: int | None = None) -> None:
    block = torch.from_numpy(np.random.default_rng(0).random(_BLOCK, dtype=np.float32) * 2 - 1)
    tensors = {
        f"{component}/{name}": tensor
        for component in components
        for name, tensor in stored_tensors(folder, component, links_allowed=True).items()
    }
    with ThreadPoolExecutor(_THREADS) as pool:
        for filled in [pool.submit(_fill, name, tensor, block, limit=limit) for name, tensor in tensors.items()]:
            filled.result()


def _fill(name: str, tensor: StoredTensor, block: torch.Tensor, *, limit: int | None) -> None:
    spread, mean = _spread_and_mean(name, tensor.shape)
    start = zlib.crc32(name.partition("/")[2].encode()) % _BLOCK  # the same for both experts
    values = torch.roll(block, -start).mul_(spread).add_(mean).to(TORCH_TYPES[tensor.dtype])
    piece = values.view(torch.uint8).numpy().data
    wanted = tensor.nbytes if limit is None else min(tensor.nbytes, limit)
    descriptor = os.open(tensor.path, os.O_WRONLY)
    try:
        for offset in range(0, wanted, len(piece)):
            part = piece[: min(len(piece), wanted - offset)]
            while part:
                written = os.pwrite(descriptor, part, tensor.offset + offset)
                offset, part = offset + written, part[written:]
    finally:
        os.close(descriptor)


def _spread_and_mean(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return half the width of the uniform distribution of a tensor's values, and its mean."""
    last = name.rpartition("/")[2]
    if "norm" in last and last.endswith(("weight", "gamma")):
        return 0.1, 1.0
    if last.endswith("bias") or "scale_shift_table" in last or len(shape) < 2:
        return 0.02, 0.0
    gain = 0.02 if last == _LAST else 1.0
    return gain * math.sqrt(3 / math.prod(shape[1:])), 0.0

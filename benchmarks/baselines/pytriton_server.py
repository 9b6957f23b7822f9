"""Serve diffusers with PyTriton: an `infer` function that returns an MP4. For `benchmarks/baselines/comparison.py`.

PyTriton calls the function for one request at a time, as a pipeline needs.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.baselines.diffusers_pipeline import Diffusers
from benchmarks.baselines.server_process import HOST, Announcer
from embedded.ports import free_ports

MODEL = "diffusers"


def make_infer(pipeline: Diffusers) -> Callable[[Sequence[Any]], list[dict[str, Any]]]:
    """Return the function that PyTriton calls with requests. A request's `data` has one array per input."""

    def infer(requests: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"video": np.array([_video(pipeline, request.data)], dtype=np.object_)} for request in requests]

    return infer


def _video(pipeline: Diffusers, inputs: Mapping[str, Any]) -> bytes:
    steps = inputs.get("num_inference_steps")
    prompt = bytes(inputs["prompt"][0]).decode()
    return pipeline.generate(prompt, seed=int(inputs["seed"][0]), steps=None if steps is None else int(steps[0]))


def main() -> int:
    """Serve until standard input closes. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.baselines.pytriton_server", description=(__doc__ or "")[:80]
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True, help="CPU threads of torch")
    options = parser.parse_args()
    announcer = Announcer()
    torch.set_num_threads(options.threads)
    infer = make_infer(Diffusers(options.checkpoint, options.exported))
    grpc_port, http_port, metrics_port = free_ports(3, HOST)
    ports = {"grpc_port": grpc_port, "http_port": http_port, "metrics_port": metrics_port}
    config = TritonConfig(http_address=HOST, grpc_address=HOST, metrics_address=HOST, exit_timeout_secs=10, **ports)
    with (
        tempfile.TemporaryDirectory(prefix="wan-t2v-pytriton-") as folder,
        Triton(config=config, workspace=Path(folder) / "workspace") as triton,
    ):
        _bind(triton, infer)
        triton.run()
        announcer.wait_until_closed({"url": f"{HOST}:{grpc_port}"})
    return 0


def _bind(triton: Any, infer: Callable[..., Any]) -> None:
    triton.bind(
        model_name=MODEL,
        infer_func=infer,
        inputs=[
            Tensor(name="prompt", dtype=bytes, shape=(1,)),
            Tensor(name="seed", dtype=np.int64, shape=(1,)),
            Tensor(name="num_inference_steps", dtype=np.int32, shape=(1,), optional=True),
        ],
        outputs=[Tensor(name="video", dtype=bytes, shape=(1,))],
        config=ModelConfig(batching=False),
        strict=False,
    )


if __name__ == "__main__":
    sys.exit(main())

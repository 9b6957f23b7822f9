"""Python-based Triton backend named `tensorrt`, for servers without a GPU. It loads and runs no plan.

It compares the model config with the manifests beside the plan, as NVIDIA's backend compares it with the plan's inputs
and outputs. It is copied to `backends/tensorrt/model.py`, where Triton's Python processes load it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wan_t2v.manifests import GRAPH_MANIFEST, PLAN_MANIFEST, GraphManifest, PlanManifest, read_manifest

TYPES = {"TYPE_FP32": "FLOAT", "TYPE_BF16": "BFLOAT16", "TYPE_FP16": "FLOAT16", "TYPE_INT64": "INT64"}
ANSWER = "this server rehearses loading: it has no GPU, so no plan runs here"


class TritonPythonModel:
    """Model of one plan."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Check the model's config. Raises TritonModelException, so that the model does not become ready."""
        import triton_python_backend_utils as pb_utils  # exists in Triton's processes only

        config: dict[str, Any] = json.loads(args["model_config"])
        problems = list(problems_of(config, Path(args["model_repository"]) / args["model_version"]))
        if problems:
            raise pb_utils.TritonModelException("; ".join(problems))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request with an error that gives the reason."""
        import triton_python_backend_utils as pb_utils

        return [pb_utils.InferenceResponse(error=pb_utils.TritonError(ANSWER)) for _ in requests]


def problems_of(config: Mapping[str, Any], folder: Path) -> list[str]:
    """List the mismatches between a model's config and the manifests in its version folder."""
    plan = read_manifest(PlanManifest, folder / PLAN_MANIFEST)
    graph = read_manifest(GraphManifest, folder / GRAPH_MANIFEST)
    problems = []
    if (folder / "model.plan").stat().st_size != plan.plan_bytes:
        problems.append(f"{folder / 'model.plan'} is not the file of its manifest")
    if config["max_batch_size"] > plan.batch:
        problems.append(f"max_batch_size is {config['max_batch_size']}, the plan takes {plan.batch}")
    for kind, shapes in (("input", graph.inputs), ("output", graph.outputs)):
        tensors = {tensor["name"]: tensor for tensor in config[kind]}
        if tensors.keys() != shapes.keys():
            problems.append(f"{kind}s are {sorted(tensors)}, the plan has {sorted(shapes)}")
            continue
        problems += [
            f"{name} is {tensor['data_type']}, the plan has {graph.dtypes[name]}"
            for name, tensor in tensors.items()
            if TYPES[tensor["data_type"]] != graph.dtypes[name]
        ]
    for name, dims in ((tensor["name"], tensor["dims"]) for tensor in config["input"]):
        problems += [
            f"{name} is {dims}, the plan's profile {index} takes {list(profile[name]['max'][1:])}"
            for index, profile in enumerate(plan.profiles)
            if name in profile and not fits([int(size) for size in dims], profile[name]["max"][1:])
        ]
    return problems


def fits(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a config's dims, in which -1 is any size, allow a shape."""
    return len(dims) == len(shape) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))

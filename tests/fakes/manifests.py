"""Whole manifests for tests, of plans and graphs that were never made."""

from dataclasses import replace
from typing import Any

from wan_t2v.manifests import (
    GraphManifest,
    Parity,
    PlanManifest,
    PlannedDeployment,
    RunningGpu,
    TensorRtVersion,
)

H100 = RunningGpu("NVIDIA H100 80GB HBM3", "9.0", "580.65.06")


def graph_manifest(**changes: Any) -> GraphManifest:
    """Of an expert that stands in its own folder."""
    whole = GraphManifest(
        graph="high_noise_expert",
        checkpoint_sha256="c" * 64,
        exporter_sha256="e" * 64,
        opset=23,
        precision="bf16",
        versions={"torch": "2.13.0"},
        onnx_sha256="abc",
        inputs={"timestep": ("batch", 1)},
        outputs={"velocity": ("batch", 16, "latent_frames", "latent_height", "latent_width")},
        dtypes={"timestep": "FLOAT", "velocity": "BFLOAT16"},
        parity=Parity(reference="none", not_compared="it is of a test"),
    )
    return replace(whole, **changes)


def plan_manifest(**changes: Any) -> PlanManifest:
    """Of an expert for two sizes, built for the H100 that built it."""
    whole = PlanManifest(
        graph="high_noise_expert",
        version=1,
        sizes=("480x832x81", "720x1280x81"),
        precision="bf16",
        checkpoint_sha256="c" * 64,
        onnx_sha256="abc",
        tensorrt=TensorRtVersion("tensorrt", "11.4.0.106"),
        gpu=H100,
        target=("current",),
        workspace_gib=8.0,
        tf32=False,
        batch=1,
        axes=({"latent_height": 60}, {"latent_height": 90}),
        deployment=PlannedDeployment(("480x832x81", "720x1280x81"), 1),
        plan_sha256="d" * 64,
        plan_bytes=1,
        profiles=({"timestep": {"min": (1, 1), "opt": (1, 1), "max": (1, 1)}},),
        network={"layers": 1},
        build_seconds=1.0,
        device_memory_bytes=(5, 6),
    )
    return replace(whole, **changes)

"""Compatibility of a TensorRT plan with this machine's GPU and TensorRT, from its manifest `plan.json`.

A plan is machine code: it fits one version of one TensorRT and one kind of GPU, and it is a build of one ONNX graph.
"""

from dataclasses import dataclass

from wan_t2v.contract import EXPERTS, VAE_DECODERS
from wan_t2v.manifests import PORTABLE, PlanManifest, RunningGpu

# GPUs on which TensorRT-RTX runs a portable plan, by NVIDIA's documentation. Its runtime refuses Hopper (9.0).
PORTABLE_CAPABILITIES = ((8, 0), (8, 6), (8, 9))
PORTABLE_FROM = (12, 0)
_PRECISION_VARIABLES = {  # of `make plans`, by graph
    "text_encoder": "TEXT_ENCODER_PRECISION",
    **dict.fromkeys(EXPERTS, "PRECISION"),
    **dict.fromkeys(VAE_DECODERS, "VAE_PRECISION"),
}


class PlanMismatch(Exception):
    """A plan that must not be loaded here; the message says why and holds the command that builds the right one."""


@dataclass(frozen=True)
class Running:
    """Environment that is to run a plan.

    `module` is `tensorrt` or `tensorrt_rtx`. `onnx_sha256` is that of the graph beside the plan; None without one.
    """

    module: str
    version: str
    gpu: RunningGpu | None
    onnx_sha256: str | None = None


def mismatches(manifest: PlanManifest, running: Running) -> list[str]:
    """Return every reason why the plan of this manifest does not fit; empty if it fits."""
    built = manifest.tensorrt
    reasons = []
    if (built.module, built.version) != (running.module, running.version):
        reasons.append(
            f"it was built with {built.module} {built.version}, here runs {running.module} {running.version}"
        )
    if running.gpu is None:
        reasons.append("it needs a GPU, and the driver shows none")
    else:
        reasons += _gpu_mismatch(manifest, running.gpu)
    if running.onnx_sha256 is not None and running.onnx_sha256 != manifest.onnx_sha256:
        reasons.append("the ONNX graph was exported again after it was built")
    return reasons


def check_plan(manifest: PlanManifest, running: Running) -> None:
    """Raises PlanMismatch with all reasons and the command that rebuilds the plan."""
    reasons = mismatches(manifest, running)
    if reasons:
        raise PlanMismatch(
            f"the plan of {manifest.graph} does not fit: {'; '.join(reasons)}. Build it again: "
            f"{rebuild_command(manifest)}"
        )


def rebuild_command(manifest: PlanManifest) -> str:
    """Return the command that rebuilds the plan. Run it on the machine and in the image that will load the plan.

    It names the precision of this plan's part of the model alone, since the manifest does not have the others.
    """
    precision = f"{_PRECISION_VARIABLES[manifest.graph]}={manifest.precision}"
    parts = ["make plans", "CHECKPOINT=<diffusers folder>", precision, f"SIZES={','.join(manifest.deployment.sizes)}"]
    if manifest.deployment.expert_batch != 1:
        parts.append(f"EXPERT_BATCH={manifest.deployment.expert_batch}")
    if manifest.tf32:
        parts.append("VAE_TF32=1")
    return " ".join(parts)


def _gpu_mismatch(manifest: PlanManifest, gpu: RunningGpu) -> list[str]:
    target = manifest.target
    if target == PORTABLE:
        capability = tuple(map(int, gpu.compute_capability.split(".")))
        if capability in PORTABLE_CAPABILITIES or capability >= PORTABLE_FROM:
            return []
        return [f"it is for compute capability 8.0, 8.6, 8.9, 12.0 and later, here is {_named(gpu)}"]
    if target == ("current",) and manifest.gpu is not None:
        built_on = manifest.gpu
        if (built_on.name, built_on.compute_capability) == (gpu.name, gpu.compute_capability):
            return []
        return [f"it was built on {_named(built_on)}, here is {_named(gpu)}"]
    if gpu.compute_capability in target:
        return []
    return [f"it is for compute capability {', '.join(target)}, here is {_named(gpu)}"]


def _named(gpu: RunningGpu) -> str:
    return f"{gpu.name} ({gpu.compute_capability})"

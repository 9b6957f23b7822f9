"""Compatibility of a TensorRT plan with this machine's GPU and TensorRT, from its manifest `plan.json`.

A plan is machine code: it fits one version of one TensorRT and one kind of GPU, and it is a build of one ONNX graph.
"""

from dataclasses import dataclass

from wan_t2v.contract import EXPERTS, VAE_DECODERS
from wan_t2v.engines.tensorrt.tensorrt_module import RTX
from wan_t2v.manifests import BUILD_PLANS, PORTABLE, PlanManifest, RunningGpu

# GPUs on which TensorRT-RTX runs a portable plan, by NVIDIA's documentation. Its runtime refuses Hopper (9.0).
PORTABLE_CAPABILITIES = ((8, 0), (8, 6), (8, 9))
PORTABLE_FROM = (12, 0)
_PRECISION_OPTIONS = {  # of `export plans` and `build_plans`, by graph; `make plans` has variables of these names
    "text_encoder": "text-encoder-precision",
    **dict.fromkeys(EXPERTS, "precision"),
    **dict.fromkeys(VAE_DECODERS, "vae-precision"),
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
            f"the plan of {manifest.graph} does not fit: {'; '.join(reasons)}. Build it again"
            f"{'' if manifest.tensorrt.module == RTX else ' in the serving image'}: {rebuild_command(manifest)}"
        )


def runs_portable_plans(compute_capability: str) -> bool:
    """Whether TensorRT-RTX runs its portable plans on a GPU of this compute capability, such as `8.9`."""
    capability = tuple(map(int, compute_capability.split(".")))
    return capability in PORTABLE_CAPABILITIES or capability >= PORTABLE_FROM


def rebuild_command(manifest: PlanManifest) -> str:
    """Return the command that rebuilds the plan. Run it on the machine that will load the plan.

    `make plans` has TensorRT-RTX only; mainline TensorRT is in the serving image, which has no `make`. The command
    names the precision of this plan's part of the model alone, since the manifest does not have the others.
    """
    sizes, batch = ",".join(manifest.deployment.sizes), manifest.deployment.expert_batch
    options = {_PRECISION_OPTIONS[manifest.graph]: manifest.precision, "sizes": sizes}
    if batch != 1:
        options["expert-batch"] = str(batch)
    if manifest.tensorrt.module == RTX:
        variables = [f"{name.upper().replace('-', '_')}={value}" for name, value in options.items()]
        tf32 = ["VAE_TF32=1"] if manifest.tf32 else []
        return " ".join(["make plans CHECKPOINT=<diffusers folder>", *variables, *tf32])
    parts = [f"--{name} {value}" for name, value in options.items()]
    tf32 = ["--vae-tf32"] if manifest.tf32 else []
    return " ".join([f"{BUILD_PLANS} --checkpoint <diffusers folder> --into <folder of the set>", *parts, *tf32])


def _gpu_mismatch(manifest: PlanManifest, gpu: RunningGpu) -> list[str]:
    target = manifest.target
    if target == PORTABLE:
        if runs_portable_plans(gpu.compute_capability):
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

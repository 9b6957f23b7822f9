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
_CALIBRATED = ("fp8", "int8")  # how the names of precisions begin that are exported with calibrated ranges


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

    `make plans` has TensorRT-RTX only; mainline TensorRT is in the serving image, which has no `make`. Of a manifest
    that lacks the other parts' precisions the command names that of this plan's part alone.
    """
    options, switches = _options_of_build(manifest), _switches_of_build(manifest)
    if manifest.tensorrt.module == RTX:
        variables = [f"{_variable(name)}={value}" for name, value in options.items()]
        on = [f"{_variable(name)}=1" for name in switches]
        return " ".join(["make plans CHECKPOINT=<diffusers folder>", *variables, *on])
    parts = [f"--{name} {value}" for name, value in options.items()]
    on = [f"--{name}" for name in switches]
    return " ".join([f"{BUILD_PLANS} --checkpoint <diffusers folder> --into <folder of the set>", *parts, *on])


def _options_of_build(manifest: PlanManifest) -> dict[str, str]:
    run = manifest.deployment
    precisions = {**(run.precisions or {}), manifest.graph: manifest.precision}
    options = {_PRECISION_OPTIONS[graph]: precision for graph, precision in precisions.items()}
    options["sizes"] = ",".join(run.sizes)
    if run.expert_batch != 1:
        options["expert-batch"] = str(run.expert_batch)
    if run.workspace_gib is not None:
        options["workspace-gib"] = f"{run.workspace_gib:g}"
    if any(precision.startswith(_CALIBRATED) for precision in precisions.values()):
        options["fp8-ranges"] = "<file of make calibrate>"
    return options


def _switches_of_build(manifest: PlanManifest) -> list[str]:
    run = manifest.deployment
    switches = {"vae-tf32": manifest.tf32 or run.vae_tf32, "bf16-shards": run.bf16_shards}
    return [name for name, on in switches.items() if on]


def _variable(option: str) -> str:
    """Return the name of an option as a variable of `make plans`."""
    return option.upper().replace("-", "_")


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

"""Triton's form of a placement: a named set of configs (`configs/<name>.pbtxt`) and tritonserver's options."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from export.atomic import write_atomically
from export.graphs.precision import io_precision
from export.placement.gpu_memory import MIB, SettingsError, VaeEngine, whole_mib
from export.placement.layouts import Layout, Placement
from export.placement.measured_plans import rows_of_experts
from wan_t2v.contract import EXPERTS, MODELS, MODELS_OF_ENDPOINT, STREAM, VAE_DECODERS, Dtype

TRITON_TYPES = {"fp32": "TYPE_FP32", "bf16": "TYPE_BF16", "fp16": "TYPE_FP16"}
# The part of the profile whose precision a model's tensors of type GRAPH have.
PRECISION_OF = {
    "prepare": "text_encoder",
    "text_encoder": "text_encoder",
    "denoiser": "text_encoder",
    **dict.fromkeys(EXPERTS, "experts"),
    **dict.fromkeys(VAE_DECODERS, "vae"),
}
# Most time that a guidance pass waits for the other one, whose latents are copied to the server meanwhile. A pass takes
# tenths of a second; one without another, as at guidance 1, waits this long for nothing.
MERGE_DELAY_US = 20_000
PINNED_BYTES = 256 * MIB  # Triton's default
LAUNCHER_START_LIMIT_S = 2400  # as the chart, whose pods read their weights from a volume too
TEXT_ENCODER_THREADS = 8  # on the CPU: the chart's CPU request per pod; torch's default is every core of the node
PRECISION_OPTIONS = {  # of `export.to_torch_program`
    "text_encoder": "--text-encoder-precision",
    **dict.fromkeys(EXPERTS, "--precision"),
    **dict.fromkeys(VAE_DECODERS, "--vae-precision"),
}
ENGINE_OF = {VaeEngine.IN_PROCESS: "tensorrt", VaeEngine.TORCH: "torch"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def write_configs(placement: Placement, repository: Path, name: str) -> list[Path]:
    """Write `<model>/configs/<name>.pbtxt` in `repository` for each model whose config changes. Returns the paths.

    A file of that name from an earlier placement is replaced, or removed if the model's config no longer changes.
    Raises SettingsError for an invalid name or the reserved name `cpu`, and FileNotFoundError for a folder that is no
    model repository.
    """
    if not _NAME.fullmatch(name) or name == "cpu":
        raise SettingsError(f"--out {name!r}, accepted: letters, digits, '.', '_', '-'; `cpu` is the embedded server's")
    configs = placed_configs(placement, repository)
    paths = []
    for model in models_of_repository(repository):
        path = repository / model / "configs" / f"{name}.pbtxt"
        if model not in configs:
            path.unlink(missing_ok=True)
            continue
        with write_atomically(path) as partial:
            partial.write_text(f"{_HEADER}{text_format.MessageToString(configs[model])}", encoding="utf-8")
        paths.append(path)
    return paths


_HEADER = "# Written by `python -m export placement` (docs/run/placement.md). The original is ../config.pbtxt.\n"


def placed_configs(placement: Placement, repository: Path) -> dict[str, Any]:
    """Return the config, as Triton's ModelConfig, of each loaded model whose config differs from `config.pbtxt`.

    An expert that is swapped in later is among them, since Triton reads the set's config then.
    Raises FileNotFoundError for a folder that is no model repository, and SettingsError for a damaged plan manifest.
    """
    if not (repository / "denoiser/config.pbtxt").exists():
        raise FileNotFoundError(
            f"{repository} is no model repository: denoiser/config.pbtxt is missing. Set --repository."
        )
    configs = {}
    merged, never_loaded = _merged_rows(placement, repository), unloaded_models(placement) - set(EXPERTS)
    for model in models_of_repository(repository):
        text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
        original = text_format.Parse(text, ModelConfig())
        placed = ModelConfig()
        placed.CopyFrom(original)
        _place(placed, placement, merged)
        if placed != original and model not in never_loaded:
            configs[model] = placed
    return configs


def _merged_rows(placement: Placement, repository: Path) -> dict[str, int]:
    """Return the rows per call of each expert whose guidance passes the server is to merge.

    Their plans were built for it, and the expert is on one GPU. Two GPUs run the passes at the same time instead.
    """
    if placement.profile.experts_in_torch:
        return {}
    rows = rows_of_experts(repository)
    return {name: rows[name] for name, gpus in placement.expert_gpus.items() if rows[name] > 1 and len(gpus) == 1}


def _place(config: Any, placement: Placement, merged: Mapping[str, int]) -> None:
    model, profile = config.name, placement.profile
    gpus = {
        **({} if placement.text_encoder_on_cpu else {"text_encoder": (placement.text_encoder,)}),
        "denoiser": (0,),
        STREAM: (placement.stream,),
        **dict.fromkeys(("vae_decoder", *VAE_DECODERS), (placement.vae,)),
        **placement.expert_gpus,
    }
    if model in gpus:
        _set_instances(config, gpus[model])
    elif model == "text_encoder":
        _set_on_cpu(config)
    if model in PRECISION_OF:
        _set_types(config, TRITON_TYPES[io_precision(getattr(profile, PRECISION_OF[model]))])
    several = len(profile.sizes) > 1
    if model in EXPERTS and profile.experts_in_torch:
        config.backend = "python"
    elif model in EXPERTS and several:
        config.instance_group[0].profile.extend(str(index) for index in range(len(profile.sizes)))
        # Triton's default allocates the largest profile's memory for the context of every profile.
        _set_parameter(config, "execution_context_allocation_strategy", "ON_PROFILE_CHANGE")
    if model in VAE_DECODERS and several:
        config.version_policy.all.SetInParent()  # each size is a model version
    if model in merged:
        config.max_batch_size = merged[model]
        config.dynamic_batching.max_queue_delay_microseconds = MERGE_DELAY_US
    for key, value in _parameters(model, placement, merges=bool(merged)):
        _set_parameter(config, key, value)


def _set_instances(config: Any, gpus: tuple[int, ...]) -> None:
    del config.instance_group[:]
    config.instance_group.add(kind=ModelInstanceGroup.KIND_GPU, count=1, gpus=gpus)


def _set_on_cpu(config: Any) -> None:
    """Run the model in the Python backend in place of its TensorRT plan. Tensors and response cache stay the same."""
    config.backend = "python"
    del config.instance_group[:]
    config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=1)


def _set_types(config: Any, type_name: str) -> None:
    spec = MODELS[config.name]
    graph_typed = {tensor.name for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype is Dtype.GRAPH}
    for tensor in (*config.input, *config.output):
        if tensor.name in graph_typed:
            tensor.data_type = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name[type_name].number


def _parameters(model: str, placement: Placement, *, merges: bool) -> Iterator[tuple[str, str]]:
    profile = placement.profile
    if model in ("denoiser", STREAM):
        if placement.layout is Layout.ONE_AT_A_TIME:
            yield "expert_residency", "one_at_a_time"
        if profile.text_encoder != io_precision(profile.experts):
            yield "expert_precision", io_precision(profile.experts)
        yield "max_in_flight", "1"  # across both endpoints: placement counts the memory of one clip
        parallel = len(placement.expert_gpus[EXPERTS[0]]) > 1
        yield "guidance_passes", "together" if parallel or merges else "in_turn"
    if model in ("vae_decoder", STREAM):
        yield from _decoding_parameters(placement)
    if model in EXPERTS and profile.experts_in_torch:
        yield "engine", "torch"
        yield "FORCE_CPU_ONLY_INPUT_TENSORS", "no"
    if model == "text_encoder" and placement.text_encoder_on_cpu:
        yield "engine", "torch"
        yield "threads", str(TEXT_ENCODER_THREADS)
    if model == "prepare":
        yield "served_clips", ",".join(map(str, profile.sizes))


def _decoding_parameters(placement: Placement) -> Iterator[tuple[str, str]]:
    if placement.vae_engine.in_process:
        yield "engine_location", "in_process"
        yield "engine", ENGINE_OF[placement.vae_engine]
    if placement.profile.vae != "fp32":
        yield "vae_precision", placement.profile.vae
    if len(placement.profile.sizes) > 1:
        yield "version_sizes", ",".join(map(str, placement.profile.sizes))


def _set_parameter(config: Any, key: str, value: str) -> None:
    config.parameters[key].string_value = value


def unloaded_models(placement: Placement) -> set[str]:
    """Return the models that tritonserver must not load at start.

    These are an expert that is swapped in later, the VAE's plans if another process runs them, and the models of an
    endpoint that is not served.
    """
    served = set().union(*(MODELS_OF_ENDPOINT[endpoint] for endpoint in placement.profile.endpoints))
    closed = set().union(*MODELS_OF_ENDPOINT.values()) - served
    swapped = {EXPERTS[1]} if placement.layout is Layout.ONE_AT_A_TIME else set()
    return swapped.union(VAE_DECODERS if placement.vae_engine.in_process else (), closed)


def models_of_repository(repository: Path) -> list[str]:
    """List the names of all models of a repository."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def server_options(placement: Placement, repository: Path, name: str) -> list[str]:
    """Return tritonserver's options for a placement: config set, CUDA and pinned memory pools, models to load."""
    options = [f"--model-config-name={name}", "--disable-auto-complete-config"]
    for gpu in range(len(placement.gpus)):
        options.append(f"--cuda-memory-pool-byte-size={gpu}:{placement.pool_bytes(gpu)}")
    options.append(f"--pinned-memory-pool-byte-size={max(PINNED_BYTES, whole_mib(2 * placement.memory.frames_bytes))}")
    models = models_of_repository(repository)
    unloaded = unloaded_models(placement) & set(models)
    if unloaded:
        options.append("--model-control-mode=explicit")
        options += [f"--load-model={model}" for model in models if model not in unloaded]
    return options


def launcher_command(placement: Placement, repository: Path, name: str) -> str:
    """Return the command that serves a placement without a container, by the embedded server's launcher.

    It is empty where a graph is a plan, which that server's Triton has no backend for, and for several GPUs.
    """
    in_torch = {"text_encoder", *EXPERTS, *VAE_DECODERS} == {*torch_graphs(placement)}
    if not in_torch or len(placement.gpus) > 1:
        return ""
    models = models_of_repository(repository)
    loaded = " ".join(model for model in models if model not in unloaded_models(placement))
    return (
        f'make serve REPOSITORY="{repository}" CONFIG_NAME={name} MODELS="{loaded}" '
        f"CUDA_POOL_BYTES={placement.pool_bytes(0)} START_LIMIT_S={LAUNCHER_START_LIMIT_S}"
    )


def torch_graphs(placement: Placement) -> list[str]:
    """Return the graphs that this placement runs in torch. Each needs a torch program in the model repository."""
    encoder = ["text_encoder"] if placement.text_encoder_on_cpu else []
    experts = EXPERTS if placement.profile.experts_in_torch else ()
    return [*encoder, *experts, *(VAE_DECODERS if placement.vae_engine is VaeEngine.TORCH else ())]


def programs_command(placement: Placement, repository: Path) -> str:
    """Return the command that makes the torch programs of `torch_graphs`."""
    profile, graphs = placement.profile, torch_graphs(placement)
    precisions = {PRECISION_OPTIONS[graph]: getattr(profile, PRECISION_OF[graph]) for graph in graphs}
    options = [f"--graph {graph}" for graph in graphs] + [f"{option} {p}" for option, p in precisions.items()]
    if profile.experts_in_torch:  # nothing else installs what the models read besides their graphs
        options += ["--exported", f"--default-size {profile.sizes[0]}"]
    return f"python -m export.to_torch_program --checkpoint FOLDER --repository {repository} {' '.join(options)}"

"""A diffusers checkpoint folder, checked: facts, defaults, modules and hashes of Wan2.2-T2V.

The libraries are imported where they are needed, so that a fault in a config file is told at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoint.architecture import Architecture
from export.checkpoint.component_configs import check_experts_alike, read_architecture
from export.checkpoint.config_file import CheckpointError as CheckpointError
from export.checkpoint.config_file import ConfigFile
from export.checkpoint.layout import check_layout
from export.checkpoint.preview_file import check_preview
from export.checkpoint.scheduler_config import read_scheduler
from export.checkpoint.serving_defaults import serving_defaults
from export.checkpoint.tokenizer import check_tokenizer
from export.checkpoint.weights.safetensors_index import stored_tensors
from export.graphs.precision import torch_dtype
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import LatentGrid

if TYPE_CHECKING:
    from torch import nn

MAX_WEIGHTS_BYTES = 900_000_000  # half-precision weights double when they are loaded in FP32; protobuf ends at 2 GiB
COMPONENTS = ("text_encoder", "transformer", "transformer_2", "vae")


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose config files were read and checked, each value once.

    Attributes:
        folder: in diffusers' layout.
        facts: what the server needs to know of it.
        defaults: `{field: {"value": ..., "source": ...}}` of request fields that are left out.
    """

    folder: Path
    facts: ModelFacts
    defaults: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read and check the config files; no weights. Raises CheckpointError."""
        index = check_layout(folder)
        scheduler = read_scheduler(folder)
        architecture = read_architecture(folder)
        check_experts_alike(folder)
        facts = _facts(folder, index, architecture=architecture, scheduler=scheduler)
        check_preview(folder, channels=facts.grid.channels)
        return cls(folder, facts, serving_defaults(folder, facts.grid))

    def check_files(self, *, links_allowed: bool = True) -> None:
        """Check the tokenizer, and the headers of all files of weights. Raises CheckpointError."""
        check_tokenizer(self.folder)
        for component in COMPONENTS:
            stored_tensors(self.folder, component, links_allowed=links_allowed)

    def check(self, *, external_weights: bool = False) -> None:
        """Check the files, and name, shape and type of every tensor of every component. Raises CheckpointError.

        Values are read only of components that are small. With `external_weights` no file may be a link,
        since graphs refer to them. That both experts were swapped cannot be seen: they differ in their values alone.
        """
        self.check_files(links_allowed=not external_weights)
        from export.checkpoint.library_defaults import check_value_types
        from export.checkpoint.weights.component_weights import check_weights

        for component in COMPONENTS:
            check_value_types(self.folder, component)
            small = weights_bytes(self.folder, component) <= MAX_WEIGHTS_BYTES
            check_weights(self.folder, component, links_allowed=not external_weights, values=small)


def check_checkpoint(folder: Path, *, external_weights: bool = False) -> Checkpoint:
    """Refuse, before any work, a folder that this project cannot serve. Raises CheckpointError."""
    checkpoint = Checkpoint.open(folder)
    checkpoint.check(external_weights=external_weights)
    return checkpoint


def is_small(folder: Path) -> bool:
    """Whether the weights of every component fit inside an ONNX file, also in FP32."""
    return all(weights_bytes(folder, component) <= MAX_WEIGHTS_BYTES for component in COMPONENTS)


def check_small_enough(folder: Path) -> None:
    """Refuse weights that do not fit in one ONNX file. Raises CheckpointError."""
    for component in COMPONENTS:
        stored = weights_bytes(folder, component)
        if stored > MAX_WEIGHTS_BYTES:
            raise CheckpointError(
                f"{folder / component} holds {stored / 1e9:.1f} GB of weights; a graph can have at most "
                f"{MAX_WEIGHTS_BYTES / 1e9:.1f} GB inside. Leave them in the checkpoint's files: `--weights external`."
            )


def weights_bytes(folder: Path, component: str) -> int:
    """Size of a component's `.safetensors` files."""
    return sum(path.stat().st_size for path in (folder / component).glob("*.safetensors") if path.is_file())


def facts_from_checkpoint(folder: Path) -> ModelFacts:
    """The model's facts, from its config files. Raises CheckpointError."""
    return Checkpoint.open(folder).facts


def _facts(folder: Path, index: ConfigFile, *, architecture: Architecture, scheduler: Mapping[str, Any]) -> ModelFacts:
    vae = ConfigFile.open(folder / "vae/config.json")
    halvings = architecture.vae.upsamples_time
    channels = architecture.vae.latent_channels
    return ModelFacts(
        grid=LatentGrid(
            channels=channels,
            time_stride=2 ** sum(halvings),
            space_stride=2 ** len(halvings),
            patch=architecture.expert.patch[1],
        ),
        latents_mean=vae.numbers("latents_mean", count=channels),
        latents_std=vae.numbers("latents_std", count=channels, above=0.0),
        boundary_ratio=index.number("boundary_ratio", above=0.0, below=1.0),
        num_train_timesteps=scheduler["num_train_timesteps"],
        scheduler=scheduler,
        text_length=architecture.text_length,
        text_dim=architecture.expert.text_dim,
    )


def module_from_checkpoint(folder: Path, component: str, precision: str = "fp32") -> "nn.Module":
    """Load one component for inference; `text_encoder` with eager attention, which exports.

    In half precision diffusers keeps its FP32 islands, since the weights are loaded so and not converted after.
    The libraries only warn of tensors that do not fit, so `Checkpoint.check` must have passed.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5EncoderModel

    loaders = {"text_encoder": UMT5EncoderModel, "vae": AutoencoderKLWan}
    loader: Any = loaders.get(component, WanTransformer3DModel)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if component == "text_encoder":
        options |= {"dtype": torch_dtype(precision), "attn_implementation": "eager"}
    else:
        options |= {"torch_dtype": torch_dtype(precision)}
    module: Any = loader.from_pretrained(folder / component, **options)
    if component == "text_encoder" and not module.encoder.embed_tokens.weight.any():
        raise CheckpointError(f"{folder / component}: the embedding is all zeros: every prompt would mean the same.")
    loaded: nn.Module = module.eval().requires_grad_(False)
    return loaded

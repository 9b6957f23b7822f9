"""Checkpoint in diffusers' layout. A command opens and checks it once and passes it on as one object.

Heavy libraries are imported inside functions, so an error in a config file is reported within a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoint.architecture import Architecture
from export.checkpoint.component_configs import EXPERT_COMPONENTS, check_experts_alike, read_architecture
from export.checkpoint.config_file import CheckpointError as CheckpointError
from export.checkpoint.config_file import ConfigFile
from export.checkpoint.hashes import content_sha256
from export.checkpoint.layout import check_layout, is_dummy
from export.checkpoint.preview_file import check_preview
from export.checkpoint.scheduler_config import read_scheduler
from export.checkpoint.serving_defaults import serving_defaults
from export.checkpoint.tokenizer import check_tokenizer
from export.checkpoint.weights.safetensors_index import content_sample_sha256, stored_tensors
from export.graphs.precision import FOR_LARGE_WEIGHTS, IN_ONNX_RUNTIME, Precisions, torch_dtype
from wan_t2v.facts import ModelFacts
from wan_t2v.manifests import MERGED_LORAS, CheckpointHash, MergedLoras, read_manifest

if TYPE_CHECKING:
    from torch import nn

MAX_WEIGHTS_BYTES = 900_000_000  # half-precision weights double in FP32, and a protobuf file ends at 2 GiB
COMPONENTS = ("text_encoder", *EXPERT_COMPONENTS, "vae")


class CheckpointKind(Enum):
    """SMALL: the weights of every component fit inside an ONNX file, also in FP32. LARGE: they do not."""

    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint folder whose config files were read and checked. It must not change while a command runs.

    Attributes:
        folder: in diffusers' layout.
        architecture: layer sizes of the three networks.
        facts: the model's properties that the server needs.
        defaults: `{field: {"value": ..., "source": ...}}` for request fields that are left out.
    """

    folder: Path
    architecture: Architecture
    facts: ModelFacts
    defaults: Mapping[str, Mapping[str, Any]]
    _hashes: dict[str, CheckpointHash] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read and check the config files, and no weights. Raises CheckpointError."""
        index = check_layout(folder)
        scheduler = read_scheduler(folder)
        architecture = read_architecture(folder)
        check_experts_alike(folder)
        facts = _facts(folder, index, architecture=architecture, scheduler=scheduler)
        check_preview(folder, channels=facts.grid.channels)
        return cls(folder, architecture, facts, serving_defaults(folder, facts.grid))

    @cached_property
    def kind(self) -> CheckpointKind:
        """SMALL or LARGE, by the size of the weight files."""
        fits = all(self.weights_bytes(component) <= MAX_WEIGHTS_BYTES for component in COMPONENTS)
        return CheckpointKind.SMALL if fits else CheckpointKind.LARGE

    @cached_property
    def merged_loras(self) -> MergedLoras | None:
        """Record of the LoRAs merged into the experts. None for a checkpoint without any. Raises ManifestError."""
        path = self.folder / MERGED_LORAS
        return read_manifest(MergedLoras, path) if path.exists() else None

    @property
    def default_precisions(self) -> Precisions:
        """FP32 for a small checkpoint, as ONNX Runtime needs. A14B's serving precisions for a large one."""
        return IN_ONNX_RUNTIME if self.kind is CheckpointKind.SMALL else FOR_LARGE_WEIGHTS

    def weights_bytes(self, component: str) -> int:
        """Return the bytes of a component's `.safetensors` files."""
        return sum(path.stat().st_size for path in (self.folder / component).glob("*.safetensors") if path.is_file())

    def hash_of(self, component: str) -> CheckpointHash:
        """Hash a component's config and weights, once. Of a large checkpoint only samples of the weights are hashed."""
        if component not in self._hashes:
            self._hashes[component] = self._hash(component)
        return self._hashes[component]

    def _hash(self, component: str) -> CheckpointHash:
        if self.kind is CheckpointKind.SMALL:
            return CheckpointHash(content_sha256(self.folder, component))
        return CheckpointHash(content_sample_sha256(self.folder, component), sampled=True)

    def check_files(self, *, links_allowed: bool = True) -> None:
        """Check the tokenizer and the headers of all weight files. Raises CheckpointError."""
        check_tokenizer(self.folder)
        for component in COMPONENTS:
            stored_tensors(self.folder, component, links_allowed=links_allowed)

    def check(self, *, external_weights: bool = False) -> None:
        """Check the files, and the name, shape and type of every tensor. Raises CheckpointError.

        All values are checked in small components only, and samples of them in large ones. With `external_weights` no
        file may be a link, since graphs refer to the files. Swapped experts cannot be detected: they differ in their
        values alone.
        """
        self.check_files(links_allowed=not external_weights)
        from export.checkpoint.library_defaults import check_value_types
        from export.checkpoint.weights.component_weights import check_weights

        for component in COMPONENTS:
            check_value_types(self.folder, component)
            small = self.weights_bytes(component) <= MAX_WEIGHTS_BYTES
            check_weights(
                self.folder,
                component,
                links_allowed=not external_weights,
                values=small,
                dummy=is_dummy(self.folder),
            )

    def check_fits_inside(self) -> None:
        """Refuse weights that do not fit in one ONNX file. Raises CheckpointError."""
        for component in COMPONENTS:
            stored = self.weights_bytes(component)
            if stored > MAX_WEIGHTS_BYTES:
                raise CheckpointError(
                    f"{self.folder / component} holds {stored / 1e9:.1f} GB of weights; a graph can have at most "
                    f"{MAX_WEIGHTS_BYTES / 1e9:.1f} GB inside. Leave them in the checkpoint's files: "
                    "`--weights external`."
                )

    def module(self, component: str, precision: str = "fp32") -> "nn.Module":
        """Load one component for inference, and compare samples of what was loaded with the files that are checked.

        The text encoder gets eager attention, which can be exported.

        Loading in half precision keeps diffusers' FP32 modules in FP32; a later `.to()` would convert them too.
        The libraries only warn about tensors that do not fit, so call `check` first.
        Raises CheckpointError for a text embedding of zeros, and for values that are not those of the files.
        """
        from export.checkpoint.weights.component_weights import check_loaded

        module = self._load(component, precision)
        path = self.folder / component
        if component == "text_encoder" and not module.encoder.embed_tokens.weight.any():
            raise CheckpointError(
                f"{path}: the embedding is all zeros: every prompt would mean the same. "
                "Take the text encoder from the published checkpoint."
            )
        check_loaded(self.folder, component, module)
        loaded: nn.Module = module.eval().requires_grad_(False)
        return loaded

    def _load(self, component: str, precision: str) -> Any:
        from diffusers import AutoencoderKLWan, WanTransformer3DModel
        from transformers import UMT5EncoderModel

        from export.checkpoint.meta_module import text_encoder_config

        path, dtype = self.folder / component, torch_dtype(precision)
        only_these: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        if component == "text_encoder":
            config = text_encoder_config(self.folder)
            return UMT5EncoderModel.from_pretrained(
                path, config=config, dtype=dtype, attn_implementation="eager", **only_these
            )
        loader: Any = AutoencoderKLWan if component == "vae" else WanTransformer3DModel
        return loader.from_pretrained(path, torch_dtype=dtype, **only_these)


def _facts(folder: Path, index: ConfigFile, *, architecture: Architecture, scheduler: Mapping[str, Any]) -> ModelFacts:
    vae = ConfigFile.open(folder / "vae/config.json")
    channels = architecture.vae.latent_channels
    return ModelFacts(
        grid=architecture.grid,
        latents_mean=vae.numbers("latents_mean", count=channels),
        latents_std=vae.numbers("latents_std", count=channels, above=0.0),
        boundary_ratio=index.number("boundary_ratio", above=0.0, below=1.0),
        num_train_timesteps=scheduler["num_train_timesteps"],
        scheduler=scheduler,
        text_length=architecture.text_length,
        text_dim=architecture.expert.text_dim,
    )

"""Config files of a checkpoint's components, checked and turned into its architecture.

Standard library only, and no weights are needed.
"""

from pathlib import Path
from typing import Any

from export.checkpoint.architecture import (
    WANS_TEXT_LENGTH,
    Architecture,
    ExpertArchitecture,
    TextEncoderArchitecture,
    VaeArchitecture,
)
from export.checkpoint.config_file import CheckpointError, ConfigFile, is_number

EXPERT_COMPONENTS = ("transformer", "transformer_2")
MOST_LAYERS = 1000
MOST_PARAMETERS = 2**40  # of a network; torch cannot describe tensors of 2**63 bytes, not even without their values
_MOST_HEAD_DIM = 1024
_MOST_POSITIONS = 2**14  # on each axis; the rotary tables of all of them are computed whenever an expert is built
_MOST_DOWNSAMPLES = 8
_REDIRECTIONS = (  # keys by which a library takes other files than those that are checked, or runs code of theirs
    "auto_map",
    "configuration_files",
    "transformers_weights",
)
_IMAGE_TO_VIDEO_CHANNELS = 36
_OTHER_MODELS = "Only Wan2.2-T2V-A14B-Diffusers and models of its architecture are served here."
_IMAGE_TO_VIDEO = f"This is an image-to-video checkpoint (its latents come with an image and a mask). {_OTHER_MODELS}"
_TI2V_VAE = f"This is the VAE of Wan2.2-TI2V-5B. {_OTHER_MODELS}"


def read_architecture(folder: Path) -> Architecture:
    """Read the configs of the three networks and check that they fit each other.

    Raises CheckpointError with the file, the value and the accepted values.
    """
    expert = read_expert(folder, "transformer")
    text_encoder = read_text_encoder(folder)
    vae = read_vae(folder)
    _check_equal(folder, "in_channels of transformer", expert.channels, "z_dim of vae", vae.latent_channels)
    _check_equal(folder, "text_dim of transformer", expert.text_dim, "d_model of text_encoder", text_encoder.dim)
    return Architecture(expert, text_encoder, vae, read_text_length(folder))


def component_config(folder: Path, component: str) -> ConfigFile:
    """Open the component's `config.json`.

    Raises CheckpointError, also for weights that another library quantised and for a config that names other files.
    """
    config = ConfigFile.open(folder / component / "config.json")
    for name in _REDIRECTIONS:
        if config.values.get(name) is not None:
            hint = "It would make the libraries load other files than those that are checked. Take it out of the file."
            raise config.refused(name, "no such entry", hint)
    quantization = config.values.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "") if isinstance(quantization, dict) else quantization
        raise CheckpointError(
            f"{config.path} has a quantization_config ({method or 'no method named'}): quantised weights are not "
            "exported. Take the published weights; PRECISION=fp8 quantises them here."
        )
    return config


def read_expert(folder: Path, component: str) -> ExpertArchitecture:
    """Read an expert's `config.json`. Raises CheckpointError."""
    config = component_config(folder, component)
    config.choice("_class_name", ("WanTransformer3DModel",), default="WanTransformer3DModel", hint=_OTHER_MODELS)
    if config.values.get("in_channels") == _IMAGE_TO_VIDEO_CHANNELS or config.values.get("image_dim") is not None:
        raise config.refused("in_channels", "the 16 channels of text-to-video, and no image_dim", _IMAGE_TO_VIDEO)
    for name in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"):
        config.choice(name, (None,), hint=_OTHER_MODELS)
    config.choice("qk_norm", ("rms_norm_across_heads",), hint=_OTHER_MODELS)
    config.choice("cross_attn_norm", (True,), hint=_OTHER_MODELS)
    config.number("eps", above=0.0, below=1.0)
    channels = config.integer("in_channels")
    config.choice("out_channels", (channels,), hint="Latents go in and a velocity of the same shape comes out.")
    head_dim = config.integer("attention_head_dim", most=_MOST_HEAD_DIM)
    if head_dim % 2 or head_dim < 6:
        raise config.refused("attention_head_dim", "an even number from 6 up, for rotary positions on three axes")
    config.integer("rope_max_seq_len", most=_MOST_POSITIONS, default=1024)
    expert = ExpertArchitecture(
        dim=config.integer("num_attention_heads") * head_dim,
        ffn_dim=config.integer("ffn_dim"),
        layers=config.integer("num_layers", most=MOST_LAYERS),
        text_dim=config.integer("text_dim"),
        frequency_dim=_even(config, "freq_dim"),
        channels=channels,
        patch=_patch(config),
    )
    _check_size(config, expert.parameters)
    return expert


def read_text_encoder(folder: Path) -> TextEncoderArchitecture:
    """Read `text_encoder/config.json`. Raises CheckpointError."""
    config = component_config(folder, "text_encoder")
    config.choice("model_type", ("umt5",), hint="Wan's text encoder is the encoder of UMT5.")
    config.choice("feed_forward_proj", ("gated-gelu",), hint="Wan's text encoder is the encoder of UMT5.")
    config.number("layer_norm_epsilon", above=0.0, below=1.0)
    config.integer("relative_attention_max_distance")
    heads = config.integer("num_heads")
    text_encoder = TextEncoderArchitecture(
        dim=config.integer("d_model"),
        inner=heads * config.integer("d_kv"),
        heads=heads,
        ffn_dim=config.integer("d_ff"),
        layers=config.integer("num_layers", most=MOST_LAYERS),
        vocabulary=config.integer("vocab_size"),
        position_buckets=config.integer("relative_attention_num_buckets"),
    )
    _check_size(config, text_encoder.parameters)
    return text_encoder


def read_vae(folder: Path) -> VaeArchitecture:
    """Read `vae/config.json`. Raises CheckpointError."""
    config = component_config(folder, "vae")
    config.choice("_class_name", ("AutoencoderKLWan",), default="AutoencoderKLWan", hint=_OTHER_MODELS)
    config.choice("is_residual", (False,), default=False, hint=_TI2V_VAE)
    for name in ("patch_size", "decoder_base_dim"):
        config.choice(name, (None,), hint=_TI2V_VAE)
    for name in ("in_channels", "out_channels"):
        config.choice(name, (3,), default=3, hint="A frame has three colours.")
    config.choice("attn_scales", ([],), default=[], hint=_OTHER_MODELS)
    down = config.booleans("temperal_downsample", most=_MOST_DOWNSAMPLES)  # diffusers' spelling
    vae = VaeArchitecture(
        base_dim=config.integer("base_dim"),
        latent_channels=config.integer("z_dim"),
        multipliers=config.integers("dim_mult", count=len(down) + 1),
        residual_blocks=config.integer("num_res_blocks", most=MOST_LAYERS),
        upsamples_time=down[::-1],
    )
    _check_size(config, vae.decoder_parameters)
    return vae


def read_text_length(folder: Path) -> int:
    """Return the length to which prompts are padded or truncated, in tokens: 512, or the tokenizer's smaller limit.

    Raises CheckpointError.
    """
    path = folder / "tokenizer/tokenizer_config.json"
    if not path.exists():
        return WANS_TEXT_LENGTH
    config = ConfigFile.open(path)
    longest = config.values.get("model_max_length", WANS_TEXT_LENGTH)
    if not is_number(longest) or longest < 2:  # transformers writes 1e30 for "no limit"
        raise config.refused("model_max_length", "a number from 2 up")
    return int(min(longest, WANS_TEXT_LENGTH))


def check_experts_alike(folder: Path) -> None:
    """Refuse experts whose configs differ: both are called with the same latents and embeddings.

    Raises CheckpointError.
    """
    first, second = (read_expert(folder, component) for component in EXPERT_COMPONENTS)
    if first != second:
        raise CheckpointError(
            f"{folder}: transformer and transformer_2 differ in their configs ({first} and {second}). "
            "Take both experts from one checkpoint."
        )


def _check_size(config: ConfigFile, parameters: int) -> None:
    if parameters > MOST_PARAMETERS:
        raise CheckpointError(
            f"{config.path}: its layer sizes make {parameters:,} parameters, accepted: up to {MOST_PARAMETERS:,}. "
            "Take every file from one download of a Wan2.2-T2V checkpoint."
        )


def _patch(config: ConfigFile) -> tuple[int, int, int]:
    time, height, width = config.integers("patch_size", count=3)
    if time != 1 or height != width:
        raise config.refused("patch_size", "[1, p, p], such as [1, 2, 2]", _OTHER_MODELS)
    return time, height, width


def _even(config: ConfigFile, name: str) -> int:
    value = config.integer(name, least=2)
    if value % 2:
        raise config.refused(name, "an even number")
    return value


def _check_equal(folder: Path, name: str, value: Any, other: str, other_value: Any) -> None:
    if value != other_value:
        raise CheckpointError(
            f"{folder}: {name} is {value}, {other} is {other_value}, and they must be equal. "
            "Take every file from one download of a checkpoint."
        )

"""Checkpoints that are not what they seem: each is refused before any work, in one line with the remedy."""

import inspect
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file

from export.__main__ import main
from export.checkpoint.architecture import WANS_TEXT_LENGTH
from export.checkpoint.component_configs import read_architecture
from export.checkpoint.config_file import CheckpointError
from export.checkpoint.folder import COMPONENTS, Checkpoint
from export.checkpoint.tokenizer import save_tokenizer
from export.to_onnx.a14b_dummy import small_configs, write_dummy

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134904664\n"
DEFAULTS = "serving_defaults.json"
Damage = Callable[[Path], Any]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of A14B's architecture; every weight is zero but one."""
    return write_dummy(tmp_path_factory.mktemp("intact") / "checkpoint", small_configs())


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(intact, tmp_path / "checkpoint"))


def edited(name: str, **changes: Any) -> Damage:
    """Change values of a JSON file; `...` removes one."""

    def damage(folder: Path) -> None:
        values = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    return damage


def replaced(name: str, content: str | bytes | None) -> Damage:
    """Replace a file's content, or remove it."""

    def damage(folder: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).unlink() if raw is None else (folder / name).write_bytes(raw)

    return damage


def renamed(component: str, ending: str, new: str) -> Damage:
    """Rename every weight file of a component."""

    def damage(folder: Path) -> None:
        for path in (folder / component).glob(f"*{ending}"):
            path.rename(path.with_name(path.name.replace(ending, new)))

    return damage


def tensors(component: str, change: Callable[[Tensors], Any], config: Damage = lambda folder: None) -> Damage:
    """Change the tensors of a component, and perhaps a config too."""

    def damage(folder: Path) -> None:
        (path,) = (folder / component).glob("*.safetensors")
        found = load_file(path)
        changed = change(found)
        save_file(found if changed is None else changed, path, metadata={"format": "pt"})
        config(folder)

    return damage


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda found: {f"{prefix}{name}": tensor for name, tensor in found.items()}


def scaled_fp8(found: Tensors) -> None:
    for name in [name for name in found if name.endswith("to_q.weight")]:
        found[name] = found[name].to(torch.float8_e4m3fn)
        found[name.replace(".weight", ".scale_weight")] = torch.ones(1)


def scales_alone(found: Tensors) -> None:
    found["blocks.0.attn1.to_q.scale_weight"] = torch.ones(1)


def lora(found: Tensors) -> Tensors:
    return {f"transformer.blocks.0.attn1.to_q.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}


def unmerged_peft(found: Tensors) -> None:
    found["blocks.0.attn1.to_q.base_layer.weight"] = found.pop("blocks.0.attn1.to_q.weight")


def original_names(found: Tensors) -> Tensors:
    return {name.replace("attn1.to_", "self_attn."): tensor for name, tensor in found.items()}


def with_nan(found: Tensors) -> None:
    found["proj_out.bias"][3] = math.nan


def with_infinity(found: Tensors) -> None:
    found["decoder.conv_out.bias"] = torch.tensor([0.0, math.inf, 0.0]).to(torch.float16)


def one_layer_less(found: Tensors) -> None:
    for name in [name for name in found if name.startswith("blocks.1.")]:
        del found[name]


def one_of_another_shape(found: Tensors) -> None:
    found["proj_out.weight"] = found["proj_out.weight"].T.contiguous()


def defaults(**changes: Any) -> Damage:
    """A `serving_defaults.json` of the checkpoint's own, with entries changed or removed."""

    def damage(folder: Path) -> None:
        entries = {**Checkpoint.open(folder).defaults, **changes}
        (folder / DEFAULTS).write_text(json.dumps({name: e for name, e in entries.items() if e is not ...}))

    return damage


def index_of_shards(weight_map: Any, text: str | None = None) -> Damage:
    """An index in place of the one file's role."""

    def damage(folder: Path) -> None:
        path = folder / "vae/diffusion_pytorch_model.safetensors"
        path.rename(path.with_name("one.safetensors"))
        path.with_name(f"{path.name}.index.json").write_text(text or json.dumps({"weight_map": weight_map}))

    return damage


def both_experts(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        for component in ("transformer", "transformer_2"):
            edited(f"{component}/config.json", **changes)(folder)

    return damage


def truncated(name: str) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate((folder / name).stat().st_size - 100)

    return damage


EXPERT = "transformer/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
TOKENIZER = "tokenizer/tokenizer.json"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "image-to-video": (both_experts(in_channels=36), r"in_channels is 36, .* This is an image-to-video checkpoint"),
    "image-to-video pipeline": (
        edited("model_index.json", _class_name="WanImageToVideoPipeline"),
        "is an image-to-video checkpoint. Only text-to-video",
    ),
    "TI2V-5B": (
        edited("model_index.json", expand_timesteps=True, transformer_2=[None, None], boundary_ratio=None),
        "is a checkpoint of Wan2.2-TI2V-5B",
    ),
    "Wan2.1": (edited("model_index.json", transformer_2=...), "transformer_2 is nothing, expected WanTransformer3DM"),
    "an index that is a list": (replaced("model_index.json", "[]"), "holds a JSON list, accepted: an object"),
    "a component that is a text": (edited("model_index.json", vae="x"), r"vae is 'x', expected AutoencoderKLWan"),
    "no boundary": (edited("model_index.json", boundary_ratio=...), "has no boundary_ratio"),
    "a boundary in timesteps": (
        edited("model_index.json", boundary_ratio=875),
        "boundary_ratio is 875, accepted: a number above 0 and below 1",
    ),
    "a boundary that is no number": (edited("model_index.json", boundary_ratio=math.nan), "boundary_ratio is NaN"),
    "a boundary that is true": (edited("model_index.json", boundary_ratio=True), "boundary_ratio is true, accepted"),
    "a boundary that is a text": (edited("model_index.json", boundary_ratio="0.875"), 'boundary_ratio is "0.875"'),
    "another scheduler": (
        edited(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"),
        '_class_name is "FlowMatch.*accepted: "UniPCMultistepScheduler"',
    ),
    "no flow": (edited(SCHEDULER, prediction_type="epsilon"), 'prediction_type is "epsilon", accepted: "flow_pred'),
    "no flow sigmas": (edited(SCHEDULER, use_flow_sigmas=...), "use_flow_sigmas is missing, accepted: true"),
    "other timesteps": (edited(SCHEDULER, num_train_timesteps="1000"), 'num_train_timesteps is "1000", accepted: 1000'),
    "an unknown solver": (edited(SCHEDULER, solver_type="midpoint"), 'solver_type is "midpoint", accepted: "bh1" or'),
    "a scheduler's number": (edited(SCHEDULER, beta_start="x"), 'beta_start is "x", accepted: a number above 0'),
    "no JSON": (replaced("vae/config.json", "{"), "vae/config.json is not valid JSON"),
    "no UTF-8": (replaced("vae/config.json", b"\xff\xfe{\x00}\x00"), "vae/config.json is not UTF-8 text"),
    "a config that is null": (replaced("vae/config.json", "null"), "holds a JSON NoneType, accepted: an object"),
    "a config that is a pointer": (replaced("vae/config.json", POINTER), "pointer file of Git LFS .* `git lfs pull`"),
    "a config that is missing": (replaced("vae/config.json", None), "vae/config.json is missing. CHECKPOINT must be"),
    "a value twice": (
        replaced("vae/config.json", '{"z_dim": 16, "z_dim": 48}'),
        "is not valid JSON .z_dim stands there twice",
    ),
    "the VAE of TI2V-5B": (edited("vae/config.json", is_residual=True), "This is the VAE of Wan2.2-TI2V-5B"),
    "too few statistics": (edited("vae/config.json", latents_std=[1.0]), "latents_std is .*accepted: a list of 16 fin"),
    "a deviation of zero": (
        edited("vae/config.json", latents_std=[0.0] * 16),
        "accepted: a list of 16 finite numbers a",
    ),
    "statistics without numbers": (edited("vae/config.json", latents_mean=[math.nan] * 16), "latents_mean is .NaN"),
    "statistics that are missing": (edited("vae/config.json", latents_mean=...), "latents_mean is missing"),
    "another grid": (edited("vae/config.json", temperal_downsample=["a"]), "temperal_downsample is .*true and false"),
    "a layer count that is none": (both_experts(num_layers="forty"), 'num_layers is "forty", accepted: an integer'),
    "a million layers": (both_experts(num_layers=10**6), "num_layers is 1000000, accepted: an integer from 1 to 1000"),
    "another patch": (both_experts(patch_size=[2, 2, 2]), r"patch_size is \[2, 2, 2\], accepted: \[1, p, p\]"),
    "experts that differ": (edited("transformer_2/config.json", num_layers=3), "transformer and transformer_2 differ"),
    "a text encoder of another width": (
        edited("text_encoder/config.json", d_model=32),
        "text_dim of transformer is 64",
    ),
    "a T5": (edited("text_encoder/config.json", model_type="t5"), 'model_type is "t5", accepted: "umt5"'),
    "a library's value": (
        edited("text_encoder/config.json", dropout_rate="none"),
        'dropout_rate is "none", accepted: a number',
    ),
    "quantised by a library": (
        both_experts(quantization_config={"quant_method": "bitsandbytes"}),
        "has a quantization_config .bitsandbytes.* PRECISION=fp8",
    ),
    "defaults that are a list": (replaced(DEFAULTS, "[]"), "serving_defaults.json holds a JSON list"),
    "defaults without entries": (
        replaced(DEFAULTS, '{"height": 64}'),
        "defaults.json: flow_shift, fps, .* are missing",
    ),
    "defaults without sources": (defaults(height=64), "height is 64, accepted: an object with a value and its source"),
    "a default of another type": (defaults(fps={"value": "16"}), "fps is '16', accepted: an integer"),
    "a default that is missing": (defaults(fps=...), "defaults.json: fps is missing or unknown"),
    "half a character": (defaults(negative_prompt={"value": "\ud800"}), "surrogates not allowed"),
    "a default off the grid": (defaults(height={"value": 100}), "height: got 100; accepted: a multiple of 16"),
    "a default beyond the limit": (defaults(flow_shift={"value": math.inf}), "flow_shift: got inf"),
    "a preview map of another shape": (replaced("latent_preview.json", "[]"), "is no preview map .* new one is fitted"),
    "no tokenizer.json": (
        replaced(TOKENIZER, None),
        "tokenizer.json is missing .found: tokenizer_config.json.* AutoToke",
    ),
    "a tokenizer that is a pointer": (replaced(TOKENIZER, POINTER), "tokenizer.json is a pointer file of Git LFS"),
    "half a tokenizer": (replaced(TOKENIZER, '{"version": "1.0", "model"'), "tokenizer.json is not valid JSON"),
    "no tokenizer in it": (replaced(TOKENIZER, '{"version": "1.0"}'), "tokenizer.json is no tokenizer"),
    "a tokenizer of more words": (
        edited("text_encoder/config.json", vocab_size=300),
        "has token ids up to .* vocab_size is 300",
    ),
    "another end token": (edited("text_encoder/config.json", eos_token_id=2), "expects its end token 2 last"),
    "a text length of none": (edited("tokenizer/tokenizer_config.json", model_max_length="x"), "model_max_length is"),
    "scaled FP8": (tensors("transformer", scaled_fp8), "is stored in FP8 .F8_E4M3.*; PRECISION=fp8 quantises"),
    "scales beside": (
        tensors("transformer", scales_alone),
        "this looks like scaled FP8 weights, .* PRECISION=fp8 quantises",
    ),
    "a LoRA": (tensors("transformer", lora), "transformer: this looks like a LoRA .*fuse_lora"),
    "an unmerged PEFT model": (tensors("transformer_2", unmerged_peft), "this looks like an unmerged PEFT model"),
    "Wan's own names": (
        tensors("transformer", original_names),
        "names of Wan's original code .*convert_wan_to_diffusers",
    ),
    "ComfyUI's names": (tensors("transformer", prefixed("model.diffusion_model.")), "checkpoint of ComfyUI or of the"),
    "a wrapped module": (tensors("vae", prefixed("module.")), "every name begins with 'module.'.*save_pretrained"),
    "a compiled module": (tensors("vae", prefixed("_orig_mod.")), "every name begins with '_orig_mod.'"),
    "surplus layers": (
        tensors("transformer", lambda found: None, both_experts(num_layers=1)),
        "the weights do not fit config.json; tensors .* surplus: blocks.1",
    ),
    "missing layers": (tensors("transformer_2", one_layer_less), "transformer_2: .* missing: blocks.1"),
    "a misshapen tensor": (tensors("transformer", one_of_another_shape), "1 of another shape: proj_out.weight is"),
    "NaN": (tensors("transformer", with_nan), "1 tensors hold values that are infinite or no numbers: proj_out.bias"),
    "an infinity": (tensors("vae", with_infinity), "infinite or no numbers: decoder.conv_out.bias"),
    "integers": (
        tensors("vae", lambda found: found.update({"decoder.conv_out.bias": torch.ones(3, dtype=torch.int8)})),
        "decoder.conv_out.bias is stored as I8, accepted: F32, F16, BF16",
    ),
    "pickled weights": (
        renamed("text_encoder", ".safetensors", ".bin"),
        "in its place is model.bin: pickled weights. .*save_pretr",
    ),
    "GGUF": (renamed("transformer", ".safetensors", "-Q4_K_M.gguf"), "in its place is .*Q4_K_M.gguf: a GGUF file"),
    "the fp16 variant": (renamed("vae", ".safetensors", ".fp16.safetensors"), "there is only the variant 'fp16'"),
    "an adapter": (
        renamed("transformer", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors"),
        "in its place is adapter_model.safetensors: a LoRA or PEFT adapter",
    ),
    "shards without index": (
        renamed("transformer", ".safetensors", "-00001-of-00002.safetensors"),
        "Shards need their index file",
    ),
    "no folder": (lambda folder: shutil.rmtree(folder / "vae"), "vae/config.json is missing"),
    "a pointer": (replaced(EXPERT, POINTER), "model.safetensors is a pointer file of Git LFS"),
    "a truncated file": (truncated(EXPERT), "and its header describes .* truncated or damaged"),
    "an empty file": (replaced(EXPERT, b""), "is no safetensors file, or is truncated in its header"),
    "a header that is a list": (replaced(EXPERT, b"\x02" + b"\x00" * 7 + b"[]"), "damaged header .it is a JSON list"),
    "a header without offsets": (
        replaced(EXPERT, b"\x08" + b"\x00" * 7 + b'{"a":{}}'),
        "damaged header .a: KeyError",
    ),
    "an index of a missing shard": (index_of_shards({"a": "x.safetensors"}), "vae/x.safetensors is missing"),
    "an index of elsewhere": (index_of_shards({"a": "../x.safetensors"}), "names the file name '../x.safetensors'"),
    "an index of nothing": (index_of_shards({}), "names no file at all"),
    "shards in a list": (index_of_shards([]), "is not an index of shards"),
    "a tensor twice": (
        index_of_shards(0, '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}'),
        "a stands there twice",
    ),
    "a folder in place of a file": (
        lambda folder: ((folder / EXPERT).unlink(), (folder / EXPERT).mkdir()),
        "model.safetensors is no file",
    ),
    "a folder in place of a config": (
        lambda folder: ((folder / SCHEDULER).unlink(), (folder / SCHEDULER).mkdir()),
        "scheduler_config.json cannot be read .Is a directory",
    ),
    "a dead link": (
        lambda folder: ((folder / EXPERT).unlink(), (folder / EXPERT).symlink_to("blob")),
        "is a link to blob, which is not there",
    ),
}


def test_an_intact_checkpoint_passes_both_ways(folder: Path) -> None:
    for external in (False, True):
        Checkpoint.open(folder).check(external_weights=external)
    assert Checkpoint.open(folder).facts.boundary_timestep == 875.0
    assert read_architecture(folder).text_length == 512


def test_the_trained_checkpoint_passes(checkpoint: Path) -> None:
    Checkpoint.open(checkpoint).check()


def test_files_are_checked_before_the_libraries_are_imported(checkpoint: Path) -> None:
    """They take seconds, and most faults are seen without them."""
    code = (
        "import sys; from pathlib import Path; from export.checkpoint.folder import Checkpoint\n"
        f"Checkpoint.open(Path({str(checkpoint)!r})).check_files(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "onnx"} & set(loaded)


def test_prompts_are_as_long_as_in_diffusers_pipeline() -> None:
    assert inspect.signature(WanPipeline.__call__).parameters["max_sequence_length"].default == WANS_TEXT_LENGTH


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_one_line(name: str, folder: Path) -> None:
    """Both with weights inside the graph and with external ones."""
    damage, message = DAMAGES[name]
    damage(folder)
    for external in (False, True):
        with pytest.raises(CheckpointError, match=message) as caught:
            Checkpoint.open(folder).check(external_weights=external)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["scaled FP8", "surplus layers", "pickled weights", "a default of another type"])
@pytest.mark.parametrize("way", ["inside", "external"])
def test_the_command_prints_the_line_and_makes_nothing(
    name: str, way: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    out = tmp_path / "out"
    arguments = ["--checkpoint", str(folder), "--folder", str(out), "--repository", str(out), "--weights", way]
    assert main(["onnx", *arguments]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and line.count(str(folder)) >= 1
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(line)
    assert not out.exists()


def test_links_are_read_but_not_referred_to(folder: Path, tmp_path: Path) -> None:
    """As in the hub's cache. A graph that refers to weights beside it cannot follow them."""
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        path.symlink_to(path.rename(tmp_path / f"blob-{number}"))
    Checkpoint.open(folder).check()
    with pytest.raises(CheckpointError, match=r"is a symbolic link .* --local-dir FOLDER` or `cp -rL"):
        Checkpoint.open(folder).check(external_weights=True)


def test_a_file_and_an_index_at_once_are_refused(folder: Path) -> None:
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    path.with_name(f"{path.name}.index.json").write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    with pytest.raises(CheckpointError, match="has both .* and an index of shards"):
        Checkpoint.open(folder).check()


def test_full_precision_files_beside_pickled_ones_are_taken(folder: Path) -> None:
    """As the hub has them for other models; the libraries take the same."""
    (folder / "text_encoder/pytorch_model.bin").write_bytes(b"x")
    (folder / "vae/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"x")
    Checkpoint.open(folder).check()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("wan.safetensors", "is a single file of weights, as ComfyUI takes. CHECKPOINT must be a folder"),
        ("wan-Q4_K_M.gguf", "is a GGUF file, whose weights are quantised"),
        ("nothing", "is missing: no such folder"),
        ("f/high_noise_model/config.json", "model_index.json is missing; this is the original checkpoint of Wan2.2"),
        ("f/Wan2.1_VAE.pth", "this is an original checkpoint of Wan"),
        ("f/split_files/vae/x.safetensors", "this is a folder of ComfyUI"),
        ("f/high_noise-Q8_0.gguf", "this is a folder of GGUF files"),
        ("f/adapter_config.json", "this is a PEFT adapter"),
        ("f/my_lora_v2.safetensors", "this is a LoRA"),
        ("f/config.json", "this is a single component and no pipeline"),
        ("f/snapshots/0123/model_index.json", "it is in .*snapshots/0123, so that is the folder to name"),
        ("f/readme.txt", r"is missing .found: readme.txt"),
    ],
)
def test_what_is_no_pipeline_is_named(layout: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / layout
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout != "nothing":
        path.write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path / Path(layout).parts[0]).check()


@pytest.mark.parametrize("config", [{"tokenizer_class": 7}, {"added_tokens_decoder": 5}])
def test_a_tokenizer_config_that_transformers_trips_over_is_named(
    config: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    edited("tokenizer/tokenizer_config.json", **config)(folder)
    with pytest.raises(CheckpointError, match="tokenizer cannot be loaded: .* Download it again"):
        save_tokenizer(folder, tmp_path / "tokenizer.json")


def test_every_component_is_checked(folder: Path) -> None:
    for component in COMPONENTS:
        (path,) = (folder / component).glob("*.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(CheckpointError, match=f"{component}/.*truncated or damaged"):
            Checkpoint.open(folder).check()
        path.write_bytes(content)

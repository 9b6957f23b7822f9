"""A merge as a whole: the checkpoint beside, its record, what diffusers makes of the same files, and refusals."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from export import to_torch_program
from export.checkpoint.folder import Checkpoint
from export.checkpoint.weights.safetensors_index import stored_tensors
from export.graphs.registry import GRAPHS
from export.lora import folder as folder_module
from export.lora.copied_files import COPIED_FILES
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from export.lora.lora_file import LoraError
from export.to_onnx.a14b_dummy import write_dummy, write_sparse
from export.to_onnx.graph_export import ExportSettings, GraphExport
from tests.unit.export.lora.lora_files import MINI, RANK, modules, of_diffusers, of_kohya, of_lightx2v, saved
from wan_t2v.manifests import MERGED_LORAS, MergedLoras, read_manifest

HALF_STEP = 2.0**-10  # of FP16, relative: two roundings of nearly the same number differ by one step at most


def choice(high: Path, low: Path | None = None, **options: object) -> LoraChoice:
    return LoraChoice(str(high), str(low) if low else "none", **options)  # type: ignore[arg-type]


def shards(folder: Path, component: str) -> dict[str, Tensor]:
    return {n: t for path in sorted((folder / component).glob("*.safetensors")) for n, t in load_file(path).items()}


@pytest.fixture(scope="module")
def high(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("loras") / "first_high_noise.safetensors", of_lightx2v("high"))


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("loras") / "second_low_noise.safetensors", of_kohya("low"))


@pytest.fixture(scope="module")
def merged(high: Path, low: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("merged") / "mini-lora"
    return merge_loras(Checkpoint.open(MINI), choice(high, low, scale=0.5), into)


def fused_by_diffusers(path: Path, component: str, scale: float) -> dict[str, Tensor]:
    """The component's tensors after diffusers' own `load_lora_weights` and `fuse_lora`, in FP32."""
    pytest.importorskip("peft", reason="diffusers merges with it; `make setup-dev` installs it")
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    experts: dict[str, Any] = {
        name: WanTransformer3DModel.from_pretrained(MINI / name, torch_dtype=torch.float32, local_files_only=True)
        for name in ("transformer", "transformer_2")
    }
    pipeline = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=UniPCMultistepScheduler(), **experts)
    second = component == "transformer_2"
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, load_into_transformer_2=second)
    pipeline.fuse_lora(components=[component], lora_scale=scale)
    pipeline.unload_lora_weights()
    return dict(experts[component].state_dict())


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal after rounding to FP16, but for numbers that lay in the middle between two."""
    assert actual.keys() == expected.keys()
    other = 0
    for name, tensor in actual.items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor.float(), expected[name], rtol=HALF_STEP, atol=1e-7, msg=name)
        other += int((tensor != expected[name].half()).sum())
    assert other < 1e-3 * sum(tensor.numel() for tensor in actual.values())


def of_diffusers_with_alpha(folder: Path) -> Path:
    metadata = {"r": RANK, "lora_alpha": 10, "target_modules": [*modules()]}
    return saved(
        folder / "with_alpha.safetensors",
        of_diffusers("alpha"),
        {f"transformer.{name}": value for name, value in metadata.items()},
    )


@pytest.mark.parametrize(
    ("component", "write"),
    [
        ("transformer", lambda folder: saved(folder / "plain.safetensors", of_diffusers("plain"))),
        ("transformer_2", of_diffusers_with_alpha),
        ("transformer", lambda folder: saved(folder / "lightx2v.safetensors", of_lightx2v("x"))),
        ("transformer_2", lambda folder: saved(folder / "kohya.safetensors", of_kohya("k"))),
    ],
    ids=["diffusers", "diffusers with alpha", "lightx2v", "kohya"],
)
def test_the_weights_are_those_that_diffusers_fuses(
    component: str, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path)
    high, low = (str(path), "none") if component == "transformer" else ("none", str(path))
    into = merge_loras(Checkpoint.open(MINI), LoraChoice(high, low, scale=0.7), tmp_path / "merged")
    before = shards(MINI, component)
    after = shards(into, component)
    assert sum(not torch.equal(after[name], before[name]) for name in before) >= len(modules())
    assert_same(after, fused_by_diffusers(path, component, 0.7))


def test_the_weights_are_those_that_peft_merges(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="`make setup-dev` installs it")
    from diffusers import WanTransformer3DModel

    torch.manual_seed(1)
    expert = WanTransformer3DModel.from_pretrained(MINI / "transformer", torch_dtype=torch.float32)
    layers = [name for name in modules() if name.endswith(("to_q", "net.2"))]
    config = peft.LoraConfig(
        r=8, lora_alpha=4, target_modules=layers, alpha_pattern={"attn1.to_q": 16}, use_rslora=True, init_lora_weights=False
    )  # fmt: skip
    model = peft.get_peft_model(expert, config)
    model.save_pretrained(tmp_path / "adapter")
    lora = tmp_path / "adapter/adapter_model.safetensors"
    into = merge_loras(Checkpoint.open(MINI), choice(lora), tmp_path / "merged")
    assert_same(shards(into, "transformer"), dict(model.merge_and_unload().state_dict()))
    (record,) = read_manifest(MergedLoras, into / MERGED_LORAS).loras["transformer"]
    assert record.config_sha256, "its alpha counted"


def test_the_merged_folder_is_a_whole_checkpoint_with_a_record(merged: Path, high: Path, low: Path) -> None:
    checkpoint = Checkpoint.open(merged)
    checkpoint.check(external_weights=True)
    record = checkpoint.merged_loras
    assert record is not None and {name: [lora.file for lora in loras] for name, loras in record.loras.items()} == {
        "transformer": [high.name],
        "transformer_2": [low.name],
    }
    base = Checkpoint.open(MINI)
    assert record.base == {name: base.hash_of(name) for name in ("transformer", "transformer_2")}
    names = {str(path.relative_to(MINI)) for path in MINI.rglob("*") if path.is_file() and path.name[0] != "."}
    assert {str(path.relative_to(merged)) for path in merged.rglob("*") if path.is_file()} == {
        *names,
        MERGED_LORAS,
        COPIED_FILES,
    }
    for component in ("vae", "text_encoder"):
        assert base.hash_of(component) == checkpoint.hash_of(component)


def test_the_loras_are_in_the_origin_of_every_graph_of_an_expert(merged: Path, high: Path) -> None:
    checkpoint = Checkpoint.open(merged)
    settings = ExportSettings()
    origins = {graph: GraphExport(graph, checkpoint, merged, settings)._origin for graph in GRAPHS}
    assert {graph for graph, origin in origins.items() if origin.loras} == {"high_noise_expert", "low_noise_expert"}
    (lora,) = origins["high_noise_expert"].loras or ()
    assert (lora.file, lora.scale, len(lora.sha256)) == (high.name, 0.5, 64)
    assert GraphExport("high_noise_expert", Checkpoint.open(MINI), merged, settings)._origin.loras is None
    program = to_torch_program._origin(checkpoint, "high_noise_expert", "fp32", external=False)
    assert program["loras"][0]["sha256"] == lora.sha256
    assert "loras" not in to_torch_program._origin(checkpoint, "text_encoder", "fp32", external=False)


def test_the_same_merge_is_kept_and_another_one_is_made_again(merged: Path, high: Path, low: Path) -> None:
    shard = merged / "transformer/diffusion_pytorch_model.safetensors"
    before, inode = shard.read_bytes(), shard.stat().st_ino
    merge_loras(Checkpoint.open(MINI), choice(high, low, scale=0.5), merged)
    assert shard.stat().st_ino == inode
    try:
        merge_loras(Checkpoint.open(MINI), choice(high, low, scale=0.25), merged)
        assert shard.read_bytes() != before
    finally:
        merge_loras(Checkpoint.open(MINI), choice(high, low, scale=0.5), merged)
    assert shard.read_bytes() == before


def test_a_merge_into_a_merged_checkpoint_tells_of_both(merged: Path, high: Path, tmp_path: Path) -> None:
    style = saved(tmp_path / "style.safetensors", of_diffusers("style"))
    again = merge_loras(Checkpoint.open(merged), choice(style), tmp_path / "again")
    record = Checkpoint.open(again).merged_loras
    assert record is not None
    assert [lora.file for lora in record.loras["transformer"]] == [high.name, style.name]
    assert len(record.loras["transformer_2"]) == 1
    low, base = (Checkpoint.open(folder).hash_of("transformer_2") for folder in (again, merged))
    assert low == base, "an expert that stays as it is is copied"


def test_shards_and_their_index_stay_as_they_were_cut(high: Path, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    cut = Path(shutil.copytree(MINI, tmp_path / "cut"))
    (cut / "transformer/diffusion_pytorch_model.safetensors").unlink()
    WanTransformer3DModel.from_pretrained(MINI / "transformer", torch_dtype=torch.float16).save_pretrained(
        cut / "transformer", max_shard_size="2MB"
    )
    (cut / "transformer/high_noise_expert.bf16.onnx").write_text("a graph of the old weights")
    into = merge_loras(Checkpoint.open(cut), choice(high), tmp_path / "merged")
    names = sorted(path.name for path in (into / "transformer").iterdir())
    assert names == sorted(p.name for p in (cut / "transformer").iterdir() if p.suffix != ".onnx") and len(names) > 3
    Checkpoint.open(into).check()
    whole = merge_loras(Checkpoint.open(MINI), choice(high), tmp_path / "whole")
    first, second = shards(into, "transformer"), shards(whole, "transformer")
    assert first.keys() == second.keys() and all(torch.equal(first[name].half(), second[name]) for name in first)


def test_an_interruption_leaves_nothing(high: Path, low: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, count = folder_module.write_merged_shard, []

    def stopped(*arguments: object, **options: object) -> None:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_module, "write_merged_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        merge_loras(Checkpoint.open(MINI), choice(high, low), tmp_path / "merged")
    assert len(count) == 2 and not list(tmp_path.iterdir())


def test_a_fault_in_the_second_file_is_found_before_anything_is_written(high: Path, tmp_path: Path) -> None:
    tensors = of_kohya()
    del tensors["lora_unet_blocks_2_ffn_0.lora_up.weight"]
    low = saved(tmp_path / "damaged.safetensors", tensors)
    with pytest.raises(
        LoraError, match=r"damaged.safetensors does not fit transformer_2: tensors 1 missing: lora_unet_"
    ):
        merge_loras(Checkpoint.open(MINI), choice(high, low), tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == [low.name]


@pytest.mark.parametrize("place", ["", "inside", ".."])
def test_a_folder_in_or_around_the_checkpoint_is_refused(place: str, high: Path) -> None:
    with pytest.raises(LoraError, match="Name a folder beside it: LORA_INTO="):
        merge_loras(Checkpoint.open(MINI), choice(high), MINI / place)


def test_a_folder_that_no_merge_made_is_left_alone(high: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(LoraError, match=f"was not made by a merge .it has no {MERGED_LORAS}"):
        merge_loras(Checkpoint.open(MINI), choice(high), tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_a_damaged_record_is_told_at_the_export(merged: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(merged, tmp_path / "broken"))
    (broken / MERGED_LORAS).write_text(json.dumps({"base": {}}))
    with pytest.raises(ValueError, match=r"merged_loras.json: loras is missing. Run `make export LORA_HIGH="):
        assert Checkpoint.open(broken).merged_loras


A14B = """
import json, sys
from pathlib import Path
from export import to_torch_program
from export.checkpoint.folder import Checkpoint
from export.lora.experts import LoraChoice
from export.lora.folder import merge_loras
from export.process_cost import process_cost
checkpoint, lora, into = sys.argv[1:]
merge_loras(Checkpoint.open(Path(checkpoint)), LoraChoice(lora, lora, same_file=True), Path(into))
cost = process_cost()
print(json.dumps({"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "peak_mb": cost.peak_mb}))
"""


@pytest.mark.nightly  # 114 GB of zeros are read: minutes
def test_a_merge_into_a14b_takes_under_2_gb_of_memory(tmp_path: Path) -> None:
    """Its true shapes in sparse shards, and a stand-in LoRA of rank 64 for every linear layer of every block."""
    checkpoint = write_dummy(tmp_path / "a14b")
    stored = stored_tensors(checkpoint, "transformer")
    shapes = {}
    for name, tensor in stored.items():
        if name.startswith("blocks.") and name.endswith(".weight") and len(tensor.shape) == 2:
            layer = f"transformer.{name.removesuffix('.weight')}"
            shapes |= {
                f"{layer}.lora_A.weight": (64, tensor.shape[1]),
                f"{layer}.lora_B.weight": (tensor.shape[0], 64),
            }
    write_sparse(tmp_path / "lora.safetensors", shapes, "BF16")
    command = [
        sys.executable,
        "-c",
        A14B,
        str(checkpoint),
        str(tmp_path / "lora.safetensors"),
        str(tmp_path / "merged"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(done.stdout)
    assert json.loads(done.stdout)["peak_mb"] < 2000
    merged = Checkpoint.open(tmp_path / "merged")
    assert stored_tensors(merged.folder, "transformer_2").keys() == stored.keys()
    assert sum(path.stat().st_blocks * 512 for path in merged.folder.rglob("*") if path.is_file()) < 1e9, "of 126 GB"

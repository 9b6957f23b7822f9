"""Programs whose weights stay in the checkpoint's files: the same numbers as programs that have them inside."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from export import to_torch_program
from export.checkpoint import folder as checkpoint_folder
from export.checkpoint.folder import Checkpoint
from export.graphs.precision import IN_ONNX_RUNTIME, Precisions
from export.graphs.registry import GRAPHS
from export.parity.graph_parity import ParityError, Tolerance
from export.to_torch_program import _check, write_programs
from tests.unit.export.to_onnx.test_weightless_graph import filled
from wan_t2v.engines.torch_program import TorchEngine, weights_beside

EXPERT = "high_noise_expert"
ENCODER = "text_encoder"  # the graph that is traced fastest
PROGRAM = "1/model.pt2"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("weightless") / "checkpoint", torch.bfloat16, "200KB")


Write = Callable[..., Path]


@pytest.fixture
def write(shards: Path, tmp_path: Path) -> Write:
    """Writes programs of a checkpoint into a repository of this test, and returns the repository."""

    def into_repository(*graphs: str, checkpoint: Path = shards, precisions: Precisions = IN_ONNX_RUNTIME) -> Path:
        return write_programs(
            Checkpoint.open(checkpoint),
            tmp_path / "repository",
            graphs=graphs,
            precisions=precisions,
            external_weights=True,
        )

    return into_repository


@pytest.mark.parametrize("graph", ["text_encoder", EXPERT, pytest.param("vae_decoder_next", marks=pytest.mark.nightly)])
def test_a_program_without_weights_computes_what_the_module_computes(graph: str, write: Write, shards: Path) -> None:
    path = write(graph) / graph / PROGRAM
    checkpoint, origin = Checkpoint.open(shards), GRAPHS[graph]
    module = origin.module(checkpoint.module(origin.component)).eval()
    assert _check(graph, module, origin.example(checkpoint.facts, module), path) < 1e-5
    assert path.stat().st_size < 2_000_000, "weights were copied into the program"


def test_an_expert_in_bf16_keeps_its_islands_in_fp32(write: Write, shards: Path) -> None:
    """The same bits as the loaded module: the engine converts as `from_pretrained` does."""
    path = write(EXPERT, precisions=Precisions("bf16", "fp32", "fp32")) / EXPERT / PROGRAM
    checkpoint, origin = Checkpoint.open(shards), GRAPHS[EXPERT]
    module = origin.module(checkpoint.module(origin.component, "bf16")).eval()
    call = origin.example(checkpoint.facts, module)
    inputs = [torch.randn(array.shape, generator=torch.Generator().manual_seed(1)).to(array) for array in call.inputs]
    with torch.no_grad():
        expected = module(*inputs)
    found = TorchEngine(path)(dict(zip(call.input_names, inputs, strict=True)))["velocity"]
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


def test_shards_are_linked_and_the_checkpoint_can_be_exported_afterwards(write: Write, shards: Path) -> None:
    home = write(ENCODER) / ENCODER / "1"
    names = sorted(path.name for path in (shards / "text_encoder").glob("*.safetensors"))
    assert len(names) > 1, "the checkpoint should be in shards"
    assert sorted(path.name for path in home.glob("*.safetensors")) == names
    assert all((home / name).samefile(shards / "text_encoder" / name) for name in names)
    Checkpoint.open(shards).check(external_weights=True)  # it refuses hard links


def test_a_current_program_is_kept_and_gets_its_shards_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write(ENCODER) / ENCODER / "1"
    monkeypatch.setattr(to_torch_program, "_write", None)
    next(home.glob("*.safetensors")).unlink()
    write(ENCODER)
    TorchEngine(home / "model.pt2")


def test_links_follow_a_copy_of_the_checkpoint(
    write: Write, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write(ENCODER) / ENCODER / "1"
    monkeypatch.setattr(to_torch_program, "_write", None)
    copied = shutil.copytree(shards, tmp_path / "copied")
    write(ENCODER, checkpoint=copied)
    links = list(home.glob("*.safetensors"))
    assert links and all(link.samefile(copied / "text_encoder" / link.name) for link in links)


def test_weights_that_are_wanted_inside_are_put_there(write: Write, shards: Path, tmp_path: Path) -> None:
    home = write(ENCODER) / ENCODER / "1"
    assert list(home.glob("*.safetensors"))
    write_programs(Checkpoint.open(shards), tmp_path / "repository", graphs=[ENCODER])
    assert weights_beside(home / "model.pt2") is None and not list(home.glob("*.safetensors"))


def test_shards_of_an_earlier_checkpoint_go_with_its_program(write: Write, shards: Path, tmp_path: Path) -> None:
    home = write(ENCODER) / ENCODER / "1"
    before = {path.name for path in home.glob("*.safetensors")}
    single = shutil.copytree(shards, tmp_path / "single")
    tensors = {}
    for path in (single / "text_encoder").glob("*.safetensors*"):
        tensors.update(load_file(path) if path.suffix == ".safetensors" else {})
        path.unlink()
    save_file(tensors, single / "text_encoder/model.safetensors")
    write(ENCODER, checkpoint=single)
    assert {path.name for path in home.glob("*.safetensors")} == {"model.safetensors"}
    assert "model.safetensors" not in before


def test_a_component_that_fits_in_memory_is_compared_all_the_same(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14B's VAE, beside experts that do not fit."""
    monkeypatch.setattr(to_torch_program, "TOLERANCES", {ENCODER: Tolerance(-1.0, "none")})
    with pytest.raises(ParityError, match="text_encoder: the program differs from its module"):
        write(ENCODER)


@pytest.fixture
def large_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (to_torch_program, checkpoint_folder):
        monkeypatch.setattr(module, "MAX_WEIGHTS_BYTES", 1000)


def test_only_experts_are_left_in_their_files_by_themselves(large_experts: None, shards: Path, tmp_path: Path) -> None:
    """The other programs must run where the checkpoint is not mounted, as in the chart's pods."""
    graphs = (EXPERT, "text_encoder")
    write_programs(Checkpoint.open(shards), tmp_path, graphs=graphs)
    manifests = {graph: json.loads((tmp_path / graph / "1/program.json").read_text()) for graph in graphs}
    assert manifests[EXPERT]["checkpoint_sampled"] is True and manifests[EXPERT]["external_weights"] is True
    assert manifests["text_encoder"]["external_weights"] is False
    assert weights_beside(tmp_path / "text_encoder" / PROGRAM) is None
    TorchEngine(tmp_path / EXPERT / PROGRAM)


def test_a_large_expert_inside_a_program_is_refused_before_anything_is_loaded(
    large_experts: None, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--checkpoint", str(shards), "--repository", str(tmp_path / "repository"), "--weights", "inside"]
    assert to_torch_program.main([*places, "--graph", EXPERT]) == 1
    told = capsys.readouterr().err
    assert "transformer holds" in told and told.endswith("in the checkpoint's files: `--weights external`.\n")
    assert not (tmp_path / "repository").exists()

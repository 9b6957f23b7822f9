"""Torch programs: the comparison with the module, and what ends the command with one line."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from export import disk_space, to_torch_program
from export.checkpoint.folder import Checkpoint
from export.graphs.registry import GRAPHS, ExampleCall
from export.parity.graph_parity import ParityError
from wan_t2v.installed_files import sha256_of_file
from wan_t2v.serving.models.graph import installed_graph

GRAPH = "high_noise_expert"


class Twice(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return 2.0 * latents


@pytest.mark.parametrize("bad_batch", [1, 2])
def test_a_program_that_gives_nan_at_any_batch_size_is_refused(
    bad_batch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def engine(_: Path) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        return lambda inputs: {"velocity": answer(inputs["latents"])}

    def answer(latents: Tensor) -> Tensor:
        return 2.0 * latents * (torch.nan if len(latents) == bad_batch else 1.0)

    monkeypatch.setattr(to_torch_program, "TorchEngine", engine)
    call = ExampleCall((torch.ones(2, 3),), ("latents",), ("velocity",), ({},))
    with pytest.raises(ParityError, match="high_noise_expert: the program differs from its module by nan"):
        to_torch_program._check(GRAPH, Twice(), call, tmp_path / "model.pt2")


def test_a_damaged_program_is_not_current(tmp_path: Path) -> None:
    program, made_from = tmp_path / "model.pt2", {"graph": GRAPH, "precision": "fp32"}
    program.write_bytes(b"program")
    (tmp_path / "program.json").write_text(json.dumps({**made_from, "program_sha256": sha256_of_file(program)}))
    assert to_torch_program._is_current(tmp_path, made_from)
    assert not to_torch_program._is_current(tmp_path, {**made_from, "precision": "bf16"})
    program.write_bytes(b"damaged")
    assert not to_torch_program._is_current(tmp_path, made_from)


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> list[str]:
    """Options for a program of wan-mini's text encoder."""
    return ["--checkpoint", str(checkpoint), "--repository", str(tmp_path / "repository"), "--graph", "text_encoder"]


def test_leftovers_of_a_killed_process_go_before_the_disk_is_checked(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "repository/text_encoder/1"
    home.mkdir(parents=True)
    for name in (".model.pt2.123.partial", ".program.json.123.partial", ".model.onnx.123.partial"):
        (home / name).touch()
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**7))
    assert to_torch_program.main(arguments) == 1
    assert "0.1 GB of disk are needed and 0.0 GB are free (1 torch programs in" in capsys.readouterr().err
    assert [path.name for path in home.iterdir()] == [".model.onnx.123.partial"], "another writer's stays"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped; nothing half-written is left behind"),
        (PermissionError(13, "Permission denied", "/plans/model.pt2"), 1, "error: [Errno 13] Permission denied: "),
        (OSError(28, "No space left on device", "/plans/model.pt2"), 1, "Nothing half-written was left. Free some"),
    ],
)
def test_what_stops_a_program_is_told_in_one_line(
    error: BaseException,
    code: int,
    message: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(to_torch_program, "_write", stop)
    assert to_torch_program.main(arguments) == code
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_programs_that_a_run_did_not_come_to_are_refused_beside_those_it_wrote(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be of another precision or checkpoint."""
    written: list[str] = []

    def write(graph: str, _: Checkpoint, folder: Path, made_from: Mapping[str, str], **__: object) -> None:
        if len(written) == most:
            raise KeyboardInterrupt
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.pt2").write_text(made_from["precision"])
        sealed = {**made_from, "program_sha256": sha256_of_file(folder / "model.pt2")}
        (folder / "program.json").write_text(json.dumps(sealed))
        written.append(graph)

    monkeypatch.setattr(to_torch_program, "_write", write)
    monkeypatch.setattr(to_torch_program, "link_weights", lambda *_: True)
    arguments = ["--checkpoint", str(checkpoint), "--repository", str(tmp_path)]
    in_bf16 = [*arguments, "--precision", "bf16", "--vae-precision", "bf16", "--text-encoder-precision", "bf16"]
    most = len(GRAPHS)
    assert to_torch_program.main(arguments) == 0
    written.clear()
    most = 2
    assert to_torch_program.main(in_bf16) == 130
    assert len(written) == 2
    for graph in {*GRAPHS} - {*written}:
        with pytest.raises(
            FileNotFoundError, match=r"both broke off.*Run `python -m export.to_torch_program .* with the options of"
        ):
            installed_graph(tmp_path / graph / "1", "torch")
    most = len(GRAPHS)
    assert to_torch_program.main(in_bf16) == 0
    assert sorted(written) == sorted(GRAPHS), "what was finished is kept"
    assert {installed_graph(tmp_path / graph / "1", "torch").read_text() for graph in GRAPHS} == {"bf16"}


def test_a_damaged_record_of_merged_loras_is_told_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = shutil.copytree(checkpoint, tmp_path / "merged")
    (merged / "merged_loras.json").write_text("{")
    places = ["--checkpoint", str(merged), "--repository", str(tmp_path / "repository")]
    assert to_torch_program.main([*places, "--graph", "text_encoder"]) == 1
    assert "merged_loras.json: not valid JSON" in capsys.readouterr().err

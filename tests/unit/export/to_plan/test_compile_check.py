import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint.folder import Checkpoint
from export.graphs.precision import IN_PLANS, PART_OF, SUPPORTED
from export.to_plan import compile_check
from export.to_plan.compile_cases import COMPILE_TABLE, SMALL, CompileCase, smallest_cover
from export.to_plan.compile_check import CaseResult, CompileGate, compile_case, summary
from tests.fakes import small_graphs
from wan_t2v.facts import ModelFacts
from wan_t2v.shapes import VideoShape

trt = pytest.importorskip("tensorrt_rtx")
CLIP = VideoShape(17, 128, 128)
EXPERT = CompileCase(SMALL, "high_noise_expert", "fp16", (CLIP,), attention_per_block=2)


@pytest.fixture(scope="module")
def facts(exported: Path) -> ModelFacts:
    return ModelFacts.read(exported)


def test_every_graph_is_compiled_at_every_offered_precision() -> None:
    compiled = {(case.graph, case.precision) for case in COMPILE_TABLE if case.model == SMALL}
    assert compiled == {(graph, precision) for graph, part in PART_OF.items() for precision in IN_PLANS[part]}


def test_a14b_is_compiled_at_both_trained_heights_and_an_expert_with_two_profiles_is_there() -> None:
    large = [case for case in COMPILE_TABLE if case.model == "A14B"]
    assert {PART_OF[case.graph] for case in large} == set(SUPPORTED)
    for graph in ("high_noise_expert", "vae_decoder_first", "vae_decoder_next"):
        sizes = {size for case in large if case.graph == graph for size in case.sizes}
        assert sizes == {VideoShape(81, 480, 832), VideoShape(81, 720, 1280)}
    assert any(len(case.sizes) == 2 for case in large)
    experts = [case for case in COMPILE_TABLE if PART_OF[case.graph] == "experts"]
    assert all(case.attention_per_block == 2 for case in experts)


def test_the_documentation_holds_the_same_table(root: Path) -> None:
    text = (root / "docs/build/plans.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| wan-mini |", "| A14B |"))
    ]
    assert rows == [
        [case.model, f"`{case.graph}`", case.precision, " + ".join(map(str, case.sizes)) or "512 tokens or all"]
        for case in COMPILE_TABLE
    ]


@pytest.mark.parametrize("graph", ["text_encoder", "vae_decoder_first", "vae_decoder_next", "low_noise_expert"])
def test_what_was_exported_compiles(graph: str, exported: Path, checkpoint: Path, facts: ModelFacts) -> None:
    blocks = json.loads((checkpoint / "transformer/config.json").read_text())["num_layers"]
    precision = json.loads((exported / graph / "manifest.json").read_text())["precision"]
    case = next(c for c in COMPILE_TABLE if (c.model, c.graph, c.precision) == (SMALL, graph, precision))
    result = compile_case(case, exported / graph / "model.onnx", facts, blocks=blocks)
    assert result.error is None, result
    if case.attention_per_block:
        assert f"{2 * blocks} attention" in str(result)


def tokens_case(monkeypatch: pytest.MonkeyPatch, tokens: int = 320) -> None:
    """The small graphs' axes instead of an expert's."""
    monkeypatch.setattr(compile_check, "axes_of", lambda *_: {"tokens": tokens, "text_length": 64, "height": tokens})


def test_broken_graphs_fail_the_gate(tmp_path: Path, facts: ModelFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    good = small_graphs.attention_graph(tmp_path / "good.onnx")
    tokens_case(monkeypatch)
    assert compile_case(EXPERT, good, facts, blocks=1).error is None
    broken = {
        "taken apart": small_graphs.attention_graph(tmp_path / "decomposed.onnx", nodes="MatMul"),
        "Det determinant": small_graphs.unsupported_graph(tmp_path / "unsupported.onnx"),
    }
    for reason, source in broken.items():
        assert reason in (compile_case(EXPERT, source, facts, blocks=1).error or "")
    assert "2 attention layers, expected 4" in (compile_case(EXPERT, good, facts, blocks=2).error or "")
    tokens_case(monkeypatch, tokens=50_000)
    wide = small_graphs.outer_product_graph(tmp_path / "wide.onnx")
    vae = replace(EXPERT, attention_per_block=0)
    assert "2,500,000,000 elements; TensorRT takes at most" in (compile_case(vae, wide, facts, blocks=1).error or "")


def test_the_smallest_cover_leaves_no_graph_precision_or_size_of_a14b_out() -> None:
    cover = smallest_cover(COMPILE_TABLE)
    assert len(cover) == 13 and set(cover) < set(COMPILE_TABLE)
    for covered_by in (
        lambda case: {case.graph},
        lambda case: {(PART_OF[case.graph], case.precision)},
        lambda case: {(PART_OF[case.graph], size) for size in case.sizes if case.model == "A14B"},
    ):
        assert set().union(*map(covered_by, cover)) == set().union(*map(covered_by, COMPILE_TABLE))


def test_a_graph_whose_weights_are_not_in_fp8_fails_the_row_of_fp8(
    tmp_path: Path, facts: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small_graphs.attention_graph(tmp_path / "half.onnx")
    tokens_case(monkeypatch)
    result = compile_case(replace(EXPERT, model="A14B", precision="fp8"), source, facts, blocks=1)
    assert result.error == "0 linear layers have their weights in FP8, expected 10"


def test_a_plan_of_another_size_than_placement_counts_fails_its_row(
    tmp_path: Path, facts: ModelFacts, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small_graphs.attention_graph(tmp_path / "half.onnx")
    tokens_case(monkeypatch)
    result = compile_case(EXPERT, source, facts, blocks=1, architecture=Checkpoint.open(checkpoint).architecture)
    assert "placement counts 5.8 MB" in (result.error or ""), result


def test_a_failure_fails_the_command_and_the_last_line_names_it(
    tmp_path: Path, checkpoint: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One exported graph is replaced by one that TensorRT cannot read; its neighbour is left alone."""
    from export.__main__ import main
    from wan_t2v.installed_files import sha256_of_file

    folder = tmp_path / "exported"
    for graph in ("text_encoder", "high_noise_expert"):
        shutil.copytree(exported / graph, folder / graph)
    shutil.copy(exported / "model_facts.json", folder)
    path = small_graphs.unsupported_graph(folder / "high_noise_expert/model.onnx")
    manifest = json.loads(path.with_name("manifest.json").read_text())
    path.with_name("manifest.json").write_text(json.dumps({**manifest, "onnx_sha256": sha256_of_file(path)}))
    code = run(main, "compile-check", folder, checkpoint, tmp_path, "wan-mini high_noise_expert fp32")
    out, err = capsys.readouterr()
    (line, last) = out.strip().splitlines()
    assert code == 1 and line.startswith("FAILED wan-mini high_noise_expert fp32")
    assert json.loads(last)["failed"] == ["wan-mini high_noise_expert fp32 128x128x17"]
    assert "error: 1 of 1 graphs do not compile" in err
    assert run(main, "compile-check", folder, checkpoint, tmp_path, "wan-mini text_encoder fp32") == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (found["compiled"], found["failed"]) == (1, []) and set(found) == {"compiled", "failed", "seconds"}
    assert list((tmp_path / "scratch").iterdir()) == []


def run(main: Any, command: str, folder: Path, checkpoint: Path, tmp_path: Path, only: str) -> int:
    return int(
        main(
            [command, "--only", only, "--folder", str(folder), "--checkpoint", str(checkpoint)]
            + ["--scratch", str(tmp_path / "scratch"), "--jobs", "1"]
        )
    )


def test_a_row_that_is_not_there_is_an_error(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.__main__ import main

    assert run(main, "compile-check", tmp_path, checkpoint, tmp_path, "fp4") == 1
    assert "no row of the table contains fp4" in capsys.readouterr().err


class DyingGate(CompileGate):
    """Every process that it starts ends at once."""

    def _check_graph(self, cases: Sequence[CompileCase]) -> list[CaseResult]:
        os._exit(9)


def test_a_process_that_dies_is_a_failure(tmp_path: Path, checkpoint: Path, exported: Path) -> None:
    reported: list[CaseResult] = []
    cases = [case for case in COMPILE_TABLE if case.graph == "text_encoder" and case.model == SMALL]
    results = DyingGate(Checkpoint.open(checkpoint), exported, tmp_path / "scratch").check(
        cases, jobs=1, report=reported.append
    )
    assert results == reported and len(results) == len(cases)
    assert all("not compiled, a process of the gate died" in (result.error or "") for result in results)
    assert json.loads(summary(results, 1.0))["compiled"] == 0


def test_what_else_lies_in_the_scratch_folder_stays(tmp_path: Path, checkpoint: Path, exported: Path) -> None:
    mine = tmp_path / "scratch/mine/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    DyingGate(Checkpoint.open(checkpoint), exported, tmp_path / "scratch").check(
        [COMPILE_TABLE[0]], jobs=1, report=lambda result: None
    )
    assert mine.read_text() == "mine" and list((tmp_path / "scratch").iterdir()) == [mine.parent]

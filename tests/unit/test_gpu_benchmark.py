"""The GPU benchmark, rehearsed on the CPU: the same code at small dimensions, so that it runs at first try on a GPU."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, gpu_tensorrt, gpu_torch, gpu_triton
from benchmarks.gpu_scale import A14B, GRID, SMALL, Scale, expert_flops, full_scale, rehearsal_scale
from benchmarks.gpu_timing import Row, Skipped, attempted
from wan_t2v.engines.tensorrt_plan import PlanError
from wan_t2v.shapes import VideoShape

# height, width, frames: tokens, PFLOP a forward pass, share of self-attention, as counted for the published model
TABLE = {
    (256, 256, 17): (1_280, 0.035, 0.04),
    (480, 832, 17): (7_800, 0.242, 0.21),
    (480, 832, 33): (14_040, 0.505, 0.32),
    (480, 832, 49): (20_280, 0.832, 0.40),
    (480, 832, 81): (32_760, 1.678, 0.52),
    (720, 1280, 49): (46_800, 2.935, 0.61),
    (720, 1280, 81): (75_600, 6.523, 0.72),
    (1280, 1280, 81): (134_400, 18.07, 0.82),
}


@pytest.fixture
def scale() -> Scale:
    return replace(rehearsal_scale(), sizes=(VideoShape(5, 32, 48),), repeats=1, most_blocks=2)


@pytest.mark.parametrize("size", TABLE)
def test_operations_of_a_pass_are_those_of_the_published_table(size: tuple[int, int, int]) -> None:
    height, width, frames = size
    tokens, pflop, share = TABLE[size]
    assert GRID.tokens(VideoShape(frames, height, width)) == tokens
    flops = expert_flops(A14B, tokens)
    assert float(f"{flops.total / 1e15:.4g}") == pytest.approx(pflop, abs=6e-4 if pflop < 10 else 6e-3)
    assert flops.attention / flops.total == pytest.approx(share, abs=0.006)


def test_the_formula_counts_what_torch_counts(scale: Scale) -> None:
    """All but the embeddings of patch, time and text and the head, which are outside the layers."""
    size = scale.sizes[0]

    def counted(blocks: int) -> int:
        graph = gpu_torch.expert_graph(scale, blocks)
        # only the plain kernel's products are counted on a CPU
        math = sdpa_kernel(SDPBackend.MATH)
        with FlopCounterMode(display=False) as counter, torch.inference_mode(), math:
            graph(*gpu_torch.expert_inputs(scale, size).values())
        return int(counter.get_total_flops())

    two_layers = expert_flops(replace(SMALL, layers=2), scale.tokens(size)).total
    assert counted(3) - counted(1) == pytest.approx(two_layers, rel=1e-3)


def test_parameters_of_a_block_decide_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = full_scale()
    assert 2 * A14B.block_parameters == pytest.approx(0.7e9, rel=0.01)
    for free, blocks in ((80, 8), (12, 3)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * 10**9, 80 * 10**9))
        assert gpu_torch.blocks_that_fit(scale, VideoShape(81, 480, 832)) == blocks
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 80 * 10**9))
    with pytest.raises(Skipped, match="do not hold two blocks at 720x1280x81"):
        gpu_torch.blocks_that_fit(scale, VideoShape(81, 720, 1280))


def test_all_layers_follow_from_two_counts_by_a_line(scale: Scale) -> None:
    row = gpu_torch.extrapolated(scale, scale.sizes[0], (2, 8), lambda blocks: 1.0 + 0.5 * blocks)
    assert row["seconds"] == 1.0 + 0.5 * 40
    assert (row["blocks_measured"], row["seconds_measured"], row["layers"]) == ([2, 8], [2.0, 5.0], 40)


def test_a_line_through_noise_is_no_figure(scale: Scale) -> None:
    row = gpu_torch.extrapolated(scale, scale.sizes[0], (2, 8), lambda blocks: 1.0 / blocks)
    assert "seconds" not in row and row["seconds_measured"] == [0.5, 0.125] and "not_extrapolated" in row


@pytest.mark.parametrize("part", ["matrix_rate", "attention", "expert_eager", "vae"])
def test_torchs_parts_measure(part: str, scale: Scale) -> None:
    rows = list(getattr(gpu_torch, part)(scale))
    measured = [row for row in rows if "error" not in row]
    assert measured == (rows if part != "attention" else rows[:1]), "a CPU has one of the attention kernels"
    assert all("seconds" in row or "not_extrapolated" in row for row in measured)


def test_the_compiled_expert_is_compiled_a_block_at_a_time(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, dynamic: compiled.append(self))
    (row,) = gpu_torch.expert_compiled(scale)
    assert row["mode"] == "compiled" and len(row["seconds_measured"]) == 2
    assert len(compiled) == 2


def test_the_measured_expert_has_diffusers_fp32_islands(scale: Scale) -> None:
    module = gpu_torch.expert_module(scale, 1, "cpu")
    dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
    assert dtypes["blocks.0.ffn.net.0.proj.weight"] == torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] == dtypes["scale_shift_table"] == torch.float32
    assert dtypes["condition_embedder.time_embedder.linear_1.weight"] == torch.float32


def test_the_plan_is_built_by_the_real_tensorrt_and_run_by_an_engine(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built for real; run by a stand-in that checks what it is given, since a CPU cannot run a plan."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(gpu_tensorrt, "MODULES", ("tensorrt_rtx",))
    loaded: list[str] = []

    def load(path: Path, device: str, module: Any) -> Any:
        assert path.stat().st_size > 0 and device == "cpu"
        loaded.append(module.__name__)
        return lambda inputs: {"velocity": inputs["hidden_states"].clone()}

    (row,) = gpu_tensorrt.tensorrt(scale, load=load)
    assert "error" not in row and row["blocks_measured"] == [1, 2]
    assert len(row["build_seconds"]) == 2 and loaded == ["tensorrt_rtx"] * 2


def test_a_tensorrt_that_is_not_installed_is_skipped_with_its_reason(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_t2v.engines.tensorrt_module.importlib.import_module", _not_installed)
    for row in gpu_tensorrt.tensorrt(scale):
        assert "pip install" in row["skipped"]


def _not_installed(name: str) -> None:
    raise ImportError(f"No module named {name!r}")


def test_a_repository_without_graphs_is_skipped_with_its_reason(scale: Scale, tmp_path: Path) -> None:
    (row,) = gpu_triton.triton(scale, repository=tmp_path)
    assert "make export" in row["skipped"]


def test_the_graphs_of_a_copy_are_put_on_the_gpu(repository: Path, tmp_path: Path) -> None:
    from benchmarks.repository_copy import GRAPHS, copied_repository

    copy = copied_repository(repository, tmp_path)
    gpu_triton.choose_engine(copy, "torch", on_gpu=True)
    for graph in GRAPHS:
        text = (copy / graph / "configs/cpu.pbtxt").read_text()
        assert "kind: KIND_GPU, count: 1, gpus: [ 0 ]" in text and '"torch"' in text


def test_one_failed_row_does_not_cost_the_others() -> None:
    def fails() -> Row:
        raise RuntimeError("CUDA out of memory\nwith a long story")

    def skips() -> Row:
        raise Skipped("no such package")

    rows = [*attempted({"size": "a"}, fails), *attempted({"size": "b"}, skips), *attempted({}, lambda: {"x": 0.123456})]
    assert rows == [
        {"size": "a", "error": "RuntimeError: CUDA out of memory"},
        {"size": "b", "skipped": "no such package"},
        {"x": 0.1235},
    ]


WRITES_ONE_ROW = "import sys; open(sys.argv[sys.argv.index('--out') + 1], 'w').write('{\"x\": 1}\\n')"


@pytest.mark.parametrize(
    ("then", "limit_s", "status", "reason"),
    [
        ("", 60, "measured", ""),
        ("; sys.exit('no diffusers')", 60, "failed", "no diffusers"),
        ("; import time; time.sleep(600)", 5, "stopped", "after its limit of 5 s"),
    ],
)
def test_a_part_keeps_its_rows_however_it_ends(then: str, limit_s: float, status: str, reason: str) -> None:
    part = gpu.part_in_process([sys.executable, "-c", WRITES_ONE_ROW + then], limit_s)
    assert (part["status"], part["reason"]) == (status, reason)
    if limit_s > 5:
        assert part["rows"] == [{"x": 1}]


def test_the_command_writes_results_after_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results/gpu.json"
    assert gpu.main(["--rehearse", "--parts", "matrix_rate", "attention", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "matrix_rate": "measured", "attention": "partly"}
    results = json.loads(out.read_text())
    assert results["rehearsal"] is True and results["date"] and "no figures" in results["gpu"]
    assert max(row["of_matrix_rate"] for row in results["parts"]["matrix_rate"]["rows"]) == 1
    assert "of_matrix_rate" in results["parts"]["attention"]["rows"][0]


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([{"seconds": 1}, {"seconds": 2}], "measured"),
        ([{"seconds": 1}, {"error": "no memory"}], "partly"),
        ([{"skipped": "not installed"}, {"error": "no memory"}], "failed"),
        ([{"skipped": "not installed"}] * 2, "skipped"),
        ([], "failed"),
    ],
)
def test_a_part_is_called_measured_only_if_it_was(rows: list[Row], status: str) -> None:
    assert gpu.status_of(rows) == status


def test_on_a_cpu_a_built_plan_is_said_to_be_built_and_not_run(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(gpu_tensorrt, "MODULES", ("tensorrt_rtx",))

    def refuses(path: Path, device: str, module: Any) -> Any:
        raise PlanError("no driver")

    (row,) = gpu_tensorrt.tensorrt(scale, load=refuses)
    assert "built in [" in row["skipped"] and "a CPU cannot run a plan" in row["skipped"]


def test_when_time_is_up_the_other_parts_are_named_and_not_run(tmp_path: Path) -> None:
    parts = gpu.measured_parts(gpu.PARTS[:2], tmp_path / "out.json", {}, limit_s=0)
    assert [part["status"] for part in parts.values()] == ["stopped", "stopped"]
    assert json.loads((tmp_path / "out.json").read_text())["parts"] == parts


def test_all_parts_together_stay_under_nine_minutes() -> None:
    assert gpu.LIMIT_S < 540


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "out.json")]) == 0
    assert "no GPU" in json.loads(capsys.readouterr().out)["skipped"]
    assert not (tmp_path / "out.json").exists()

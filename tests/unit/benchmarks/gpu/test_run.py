"""The GPU benchmark, rehearsed on the CPU: the same code at small dimensions, so that it runs at first try on a GPU."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import fp8_part, processes, run, server_part, tensorrt_part, torch_parts, vae_part
from benchmarks.gpu.repository import GRAPHS, LOOPS, PROBES, enable_expert_swap, gpu_repository, slow_load
from benchmarks.gpu.scale import A14B, GRID, SMALL, Scale, expert_flops, full_scale, rehearsal_scale
from benchmarks.gpu.timing import Row, Skipped, attempt
from embedded.folder import ServerFolder
from embedded.options import ServerOptions, command_line
from embedded.wheel import TritonWheel
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
        graph = torch_parts.expert_graph(scale, blocks)
        # only the plain kernel's products are counted on a CPU
        math = sdpa_kernel(SDPBackend.MATH)
        with FlopCounterMode(display=False) as counter, torch.inference_mode(), math:
            graph(*torch_parts.expert_inputs(scale, size).values())
        return int(counter.get_total_flops())

    two_layers = expert_flops(replace(SMALL, layers=2), scale.tokens(size)).total
    assert counted(3) - counted(1) == pytest.approx(two_layers, rel=1e-3)


def test_parameters_of_a_block_decide_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = full_scale()
    assert 2 * A14B.block_parameters == pytest.approx(0.7e9, rel=0.01)
    for free, blocks in ((80, 8), (12, 3)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * 10**9, 80 * 10**9))
        assert torch_parts.blocks_that_fit(scale, VideoShape(81, 480, 832)) == blocks
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 80 * 10**9))
    with pytest.raises(Skipped, match="do not hold two blocks at 720x1280x81"):
        torch_parts.blocks_that_fit(scale, VideoShape(81, 720, 1280))


def test_all_layers_follow_from_two_counts_by_a_line(scale: Scale) -> None:
    row = torch_parts.extrapolate(scale, scale.sizes[0], (2, 8), lambda blocks: 1.0 + 0.5 * blocks)
    assert row["seconds"] == 1.0 + 0.5 * 40
    assert (row["blocks_measured"], row["seconds_measured"], row["layers"]) == ([2, 8], [2.0, 5.0], 40)


def test_a_line_through_noise_is_no_figure(scale: Scale) -> None:
    row = torch_parts.extrapolate(scale, scale.sizes[0], (2, 8), lambda blocks: 1.0 / blocks)
    assert "seconds" not in row and row["seconds_measured"] == [0.5, 0.125] and "not_extrapolated" in row


@pytest.mark.parametrize("part", ["matrix_rate", "attention", "expert_eager"])
def test_torchs_parts_measure(part: str, scale: Scale) -> None:
    rows = list(getattr(torch_parts, part)(scale))
    measured = [row for row in rows if "error" not in row]
    assert measured == (rows if part != "attention" else rows[:1]), "a CPU has one of the attention kernels"
    assert all("seconds" in row or "not_extrapolated" in row for row in measured)


def test_the_compiled_expert_is_compiled_a_block_at_a_time(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, dynamic: compiled.append(self))
    (row,) = torch_parts.expert_compiled(scale)
    assert row["mode"] == "compiled" and len(row["seconds_measured"]) == 2
    assert len(compiled) == 2


def test_the_measured_expert_has_diffusers_fp32_islands(scale: Scale) -> None:
    module = torch_parts.expert_module(scale, 1, "cpu")
    dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
    assert dtypes["blocks.0.ffn.net.0.proj.weight"] == torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] == dtypes["scale_shift_table"] == torch.float32
    assert dtypes["condition_embedder.time_embedder.linear_1.weight"] == torch.float32


def test_the_vae_is_measured_in_each_arithmetic_against_fp32(scale: Scale) -> None:
    rows = list(vae_part.vae(scale))
    assert [row["precision"] for row in rows] == ["fp32", "tf32", "bf16"]
    assert all(row["seconds"] > 0 and row["caches_gib"] > 0 for row in rows)
    assert rows[0]["largest_difference"] == 0
    assert 0 < rows[2]["relative_difference"] < 0.1, "BF16 rounds, and computes the same"


def test_tf32_is_set_for_its_rows_alone(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def measured(*arguments: Any) -> Row:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return {}

    monkeypatch.setattr(vae_part, "_measure", measured)
    before = torch.backends.cudnn.allow_tf32
    list(vae_part.vae(scale))
    assert seen == [(False, False), (True, True), (False, False)]
    assert torch.backends.cudnn.allow_tf32 == before


def test_fp8_is_measured_by_each_kind_of_scale(scale: Scale) -> None:
    rows = list(fp8_part.fp8(scale))
    assert "seconds" in rows[0] and rows[0]["precision"] == "bf16"
    assert [(row["scales"], row["fast_sum"]) for row in rows[1:]] == [
        ("per tensor", True), ("per tensor", False), ("per row", True), ("per row", False)]  # fmt: skip
    measured = [row for row in rows[1:] if "error" not in row]
    assert measured, "a CPU multiplies in FP8 at least with one scale a tensor"
    assert all(0 < row["relative_difference"] < 0.1 for row in measured)


@pytest.mark.parametrize("per_row", [True, False])
def test_scaled_values_fill_the_range_of_e4m3(per_row: bool) -> None:
    matrix = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    found = fp8_part.to_e4m3(matrix, per_row=per_row)
    back = found.values.float() * found.scale
    assert torch.equal(found.values.float().abs().amax(1) == 448, torch.ones(16, dtype=torch.bool)) or not per_row
    assert found.values.float().abs().max() == 448
    assert ((back - matrix).norm() / matrix.norm()).item() < 0.05


def test_the_block_is_built_by_the_real_tensorrt_and_held_to_torch(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built for real; run by a stand-in that checks what it is given, since a CPU cannot run a plan."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_part, "MODULES", ("tensorrt_rtx",))
    loaded: list[str] = []

    def load(path: Path, device: str, module: Any) -> Any:
        assert path.stat().st_size > 0 and device == "cpu"
        loaded.append(module.__name__)
        return lambda inputs: {"velocity": inputs["hidden_states"].clone()}

    (row,) = tensorrt_part.tensorrt(scale, load=load)
    assert "error" not in row and row["seconds"] > 0 and row["torch_seconds"] > 0 and row["plan_mb"] > 0
    assert row["relative_difference"] > 0.1, "the stand-in computes something else, which must show"
    assert loaded == ["tensorrt_rtx"]


def test_a_target_that_is_refused_is_followed_by_the_other(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []

    def measured(*arguments: Any, target: tuple[str, ...], **more: Any) -> Row:
        tried.append(target)
        if target:
            raise PlanError("Hopper is not among the GPUs")
        return {"seconds": 1.0}

    monkeypatch.setattr(tensorrt_part, "MODULES", ("tensorrt_rtx",))
    monkeypatch.setattr(tensorrt_part, "_on_gpu", lambda scale: True)
    monkeypatch.setattr(tensorrt_part, "_module", lambda name: None)
    monkeypatch.setattr(tensorrt_part, "_export", lambda scale, folder: None)
    monkeypatch.setattr(tensorrt_part, "_measure", measured)
    refused, built = tensorrt_part.tensorrt(scale)
    assert tried == [("current",), ()] and "Hopper" in refused["error"] and built["seconds"] == 1


def test_a_tensorrt_that_is_not_installed_is_skipped_with_its_reason(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_t2v.engines.tensorrt_module.importlib.import_module", _not_installed)
    for row in tensorrt_part.tensorrt(scale):
        assert "pip install" in row["skipped"]


def _not_installed(name: str) -> None:
    raise ImportError(f"No module named {name!r}")


def test_a_repository_without_graphs_is_skipped_with_its_reason(scale: Scale, tmp_path: Path) -> None:
    rows = list(server_part.server(scale, repository=tmp_path))
    servers = [row for row in rows if row["what"] == "server"]
    assert len(servers) == 3 and all("make export" in row["skipped"] for row in servers)
    assert run.status_of(rows) == "skipped"


def test_every_model_of_a_copy_is_put_on_the_gpu_and_its_tensors_stay_there(repository: Path, tmp_path: Path) -> None:
    copy = gpu_repository(repository, tmp_path, on_gpu=True)
    for model in (*GRAPHS, *LOOPS, *PROBES):
        text = (copy / model / "configs/cpu.pbtxt").read_text()
        assert "kind: KIND_GPU, count: 1, gpus: [ 0 ]" in text and "KIND_CPU" not in text
        assert text.count("FORCE_CPU_ONLY_INPUT_TENSORS") == 1
        assert ('key: "engine"' in text) == (model in GRAPHS)


def test_without_a_gpu_every_model_of_a_copy_stays_on_the_cpu(repository: Path, tmp_path: Path) -> None:
    copy = gpu_repository(repository, tmp_path, on_gpu=False)
    assert not any("KIND_GPU" in path.read_text() for path in copy.glob("*/configs/cpu.pbtxt"))


def test_a_load_is_slow_only_after_it_was_told_to_be(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    copy = gpu_repository(repository, tmp_path, on_gpu=False)
    enable_expert_swap(copy)
    assert "one_at_a_time" in (copy / "denoiser/configs/cpu.pbtxt").read_text()
    source = (copy / "low_noise_expert/1/model.py").read_text().split("TritonPythonModel.initialize")[1]
    scope: dict[str, Any] = {"__file__": str(copy / "low_noise_expert/1/model.py")}
    exec("class TritonPythonModel:\n    def initialize(self, args): ...\n_initialize = TritonPythonModel.initialize"
         + source + "TritonPythonModel.initialize = _initialize_when_told", scope)  # fmt: skip
    scope["TritonPythonModel"]().initialize({})
    slow_load(copy, "low_noise_expert", 45)
    scope["TritonPythonModel"]().initialize({})
    assert slept == [0, 45]


def test_the_pools_size_reaches_triton() -> None:
    nowhere = Path("/nowhere")
    wheel = TritonWheel(nowhere, nowhere, nowhere, nowhere, nowhere)
    folder = ServerFolder(nowhere, backends=nowhere, models=nowhere, checks=nowhere, libraries=())
    for size, told in ((None, []), (2**20, ["--cuda-memory-pool-byte-size=0:1048576"])):
        command = command_line(ServerOptions(cuda_pool_bytes=size), wheel, folder, shm_prefix="x")
        assert [argument for argument in command if "pool" in argument] == told


def test_memory_is_told_by_the_model_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    row = processes.gpu_processes()
    assert row["used_mib"] == 2048
    assert row["processes"][0]["mib"] == 512 and row["processes"][0]["process"].startswith("python")
    assert row["processes"][1] == {"process": "of another namespace", "mib": None}


class FakeNvml:
    """NVIDIA's management library with this process on its GPU, and one that it knows nothing of."""

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=2048 * 2**20)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Any]:  # noqa: N802
        own = SimpleNamespace(pid=os.getpid(), usedGpuMemory=512 * 2**20)
        return [own, SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)]


def test_a_log_tells_each_kind_of_warning_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [f'W1128 04:00:00.1 7 memory.cc:70] "failed to allocate {size} bytes"' for size in (123456, 654321)]
    log.write_text("\n".join([*lines, 'I1128 04:00:00.1 7 server.cc:1] "fine"']))
    assert server_part.log_messages(log) == ['2 x "failed to allocate N bytes"']


def test_one_failed_row_does_not_cost_the_others() -> None:
    def fails() -> Row:
        raise RuntimeError("CUDA out of memory\nwith a long story")

    def skips() -> Row:
        raise Skipped("no such package")

    rows = [*attempt({"size": "a"}, fails), *attempt({"size": "b"}, skips), *attempt({}, lambda: {"x": 0.123456})]
    told = rows[0].pop("traceback")
    assert told[-2:] == ["RuntimeError: CUDA out of memory", "with a long story"]
    assert '  File "benchmarks/gpu/timing.py"' in "\n".join(told), "and no folder of this machine"
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
    part = run.part_in_process([sys.executable, "-c", WRITES_ONE_ROW + then], limit_s)
    assert (part["status"], part["reason"]) == (status, reason)
    if limit_s > 5:
        assert part["rows"] == [{"x": 1}]


def test_the_command_writes_results_after_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results/gpu.json"
    assert run.main(["--rehearse", "--parts", "matrix_rate", "attention", "--out", str(out)]) == 0
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
    assert run.status_of(rows) == status


@pytest.mark.nightly  # the same build as above
def test_on_a_cpu_a_built_plan_is_said_to_be_built_and_not_run(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(tensorrt_part, "MODULES", ("tensorrt_rtx",))

    def refuses(path: Path, device: str, module: Any) -> Any:
        raise PlanError("no driver")

    (row,) = tensorrt_part.tensorrt(scale, load=refuses)
    assert re.fullmatch(r"built in \d+ s, and a CPU cannot run a plan", row["skipped"])


def test_when_time_is_up_the_other_parts_are_named_and_not_run(tmp_path: Path) -> None:
    parts = run.measure_parts(run.PARTS[1:3], tmp_path / "out.json", {}, limit_s=0)
    assert [part["status"] for part in parts.values()] == ["stopped", "stopped"]
    assert json.loads((tmp_path / "out.json").read_text())["parts"] == parts


@pytest.mark.parametrize(("gpu_name", "kept"), [("NVIDIA H100", True), ("NVIDIA H200", False)])
def test_a_later_run_keeps_the_parts_of_the_same_gpu(gpu_name: str, kept: bool, tmp_path: Path) -> None:
    out, about = tmp_path / "out.json", {"gpu": "NVIDIA H100", "rehearsal": False}
    earlier = {"status": "measured", "reason": "", "rows": [{"seconds": 1.0}]}
    out.write_text(json.dumps({**about, "parts": {"server": earlier}}))
    run.measure_parts(run.PARTS[1:2], out, {**about, "gpu": gpu_name}, limit_s=0)
    assert ("server" in json.loads(out.read_text())["parts"]) == kept


def test_the_table_has_a_line_for_every_row() -> None:
    row = {"size": "720x1280x81", "error": "RuntimeError: no memory", "traceback": ["far too long"]}
    lines = run.table({"vae": {"status": "failed", "reason": "", "rows": [row]}}).splitlines()
    assert lines == ["vae: failed ", "  size=720x1280x81 error=RuntimeError: no memory"]


def test_a_part_that_is_stopped_may_stop_its_server_first(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    code = (
        "import signal, sys, time, pathlib\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        f"try:\n    open(sys.argv[-1], 'w').write('{{}}\\n'); time.sleep(600)\n"
        f"finally:\n    pathlib.Path({str(ended)!r}).touch()"
    )
    assert run.part_in_process([sys.executable, "-c", code], 5)["status"] == "stopped"
    assert ended.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_part_may_run_as_a_user_without_rights(tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[-1], 'w').write('{\"uid\": %d}\\n' % os.getuid())"
    part = run.part_in_process([_python_for_all(), "-c", code], 60, user=run.USER)
    assert part["rows"] == [{"uid": run.USER}], part


def _python_for_all() -> str:
    """An interpreter that every user can start; this environment's may lie where only its owner may look."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def test_all_parts_together_stay_under_nine_minutes() -> None:
    assert run.LIMIT_S < 540


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--out", str(tmp_path / "out.json")]) == 0
    assert "no GPU" in json.loads(capsys.readouterr().out)["skipped"]
    assert not (tmp_path / "out.json").exists()

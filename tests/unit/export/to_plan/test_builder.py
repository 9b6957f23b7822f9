import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from export.graphs.axes import free_axes, input_shapes, with_fixed_axes
from export.to_plan import builder
from export.to_plan.builder import Attention, BuildError, BuildSettings, PlanShapes, build_in_memory, plan_from_onnx
from export.to_plan.network_check import NetworkError
from tests.fakes import small_graphs
from tests.own_process import check_in_own_process

trt = pytest.importorskip("tensorrt_rtx")
TOKENS = {"tokens": 320, "text_length": 64}
FINISHED = "Engine generation completed"


def build(source: Path, axes: dict[str, int], **options: Any) -> Path:
    shapes = options.pop("shapes", PlanShapes((axes,)))
    attention = options.pop("attention", None)
    target = source.parent / "model.plan"
    plan_from_onnx(trt, source, target, shapes, BuildSettings(**options), attention=attention)
    return target


def test_axes_are_fixed_and_multiples_follow(tmp_path: Path) -> None:
    model = onnx.load(small_graphs.joined_rows_graph(tmp_path / "model.onnx"))
    assert free_axes(model) == {"batch", "height"}
    fixed = with_fixed_axes(model, {"height": 3})
    assert free_axes(fixed) == {"batch"} and free_axes(model) == {"batch", "height"}
    assert input_shapes(fixed, {"batch": 2}) == {"x": (2, 3, 8), "cache": (2, 12, 8)}
    session = onnxruntime.InferenceSession(fixed.SerializeToString(), providers=["CPUExecutionProvider"])
    answer = session.run(None, {"x": np.ones((1, 3, 8), np.float32), "cache": np.zeros((1, 12, 8), np.float32)})[0]
    assert answer.shape == (1, 12, 16) and answer[..., 8:].all() and not answer[..., :8].any()


def test_an_axis_that_is_no_multiple_of_a_name_is_refused(tmp_path: Path) -> None:
    model = onnx.load(small_graphs.joined_rows_graph(tmp_path / "model.onnx"))
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "height - 1"
    with pytest.raises(ValueError, match="'height - 1' of the graph is not a name or a multiple of one"):
        with_fixed_axes(model, {"height": 3})


def test_fused_attention_becomes_a_plan(tmp_path: Path) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    plan = build(source, TOKENS, attention=Attention(2), log=tmp_path / "build.log")
    assert plan.stat().st_size > 1000
    log = (tmp_path / "build.log").read_text()
    assert "Opset version:    23" in log and FINISHED in log


def test_several_sizes_are_profiles_of_one_plan_and_the_largest_is_what_is_measured(tmp_path: Path) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    shapes = PlanShapes((TOKENS, {"tokens": 640, "text_length": 64}), max_batch=2)
    assert shapes.fixed == {"text_length": 64}
    with build_in_memory(trt, source, shapes, BuildSettings(), attention=Attention(2)) as (plan, facts):
        assert plan.nbytes and facts.attention_layers == 2
        assert facts.largest == 2 * 640 * small_graphs.HEADS * small_graphs.HEAD_DIM


def test_only_fp32_attention_may_be_taken_apart(tmp_path: Path) -> None:
    """TensorRT-RTX refuses this FP32 plan otherwise: it has no fused kernel for it."""
    shapes = PlanShapes((TOKENS, {"tokens": 640, "text_length": 64}), max_batch=2)
    full = small_graphs.attention_graph(tmp_path / "model.onnx", dtype=TensorProto.FLOAT)
    assert build(full, {}, shapes=shapes, attention=Attention(2)).exists()


def test_attention_that_was_taken_apart_is_refused(tmp_path: Path) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx", nodes="MatMul")
    with pytest.raises(NetworkError, match="2 softmax layers: attention was taken apart"):
        build(source, TOKENS, attention=Attention(2))
    assert build(source, TOKENS, attention=None).exists(), "where attention is not demanded, it compiles"


def test_an_attention_too_few_is_refused(tmp_path: Path) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    with pytest.raises(NetworkError, match="2 attention layers, expected 4"):
        build(source, TOKENS, attention=Attention(4))


def test_a_tensor_beyond_tensorrts_limit_is_refused_before_the_build(tmp_path: Path) -> None:
    source = small_graphs.outer_product_graph(tmp_path / "model.onnx")
    build(source, {"height": 46_340})
    with pytest.raises(
        NetworkError, match=r"layer outer: .* has the shape \(1, 46341, 46341\), 2,147,488,281 elements"
    ):
        build(source, {"height": 46_341})


def test_scores_of_fp32_attention_count_and_those_of_fp16_do_not_exist(tmp_path: Path) -> None:
    """For FP32 there is no fused kernel, so the scores are written down."""
    tokens = {"tokens": 32_760, "text_length": 64}
    half = small_graphs.attention_graph(tmp_path / "half/model.onnx")
    build(half, tokens, attention=Attention(2), workspace_gib=1.0)
    full = small_graphs.attention_graph(tmp_path / "full/model.onnx", dtype=TensorProto.FLOAT)
    with pytest.raises(NetworkError, match=r"its scores has the shape \(1, 4, 32760, 32760\).*export in bf16"):
        build(full, tokens, attention=Attention(2))


def test_the_workspace_limit_reaches_tensorrt(tmp_path: Path) -> None:
    """So a limit below what the scores need proves that they are not there: 1.0 GB in FP32, 0.5 GB in FP16, where all
    other tensors have a few MB. FP32 is seen to need more than them, FP16 less.
    """
    tokens = {"tokens": 8_000, "text_length": 64}
    full = small_graphs.attention_graph(tmp_path / "full/model.onnx", dtype=TensorProto.FLOAT)
    with pytest.raises(BuildError, match=r"OutOfMemory.* The workspace was limited to 0.9 GiB: .*WORKSPACE_GIB"):
        build(full, tokens, attention=Attention(2), workspace_gib=0.9)
    build(full, tokens, attention=Attention(2), workspace_gib=4.0)
    half = small_graphs.attention_graph(tmp_path / "half/model.onnx")
    build(half, tokens, attention=Attention(2), workspace_gib=0.1)


def test_timings_are_kept_of_a_build_that_failed_too(tmp_path: Path) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    cache = tmp_path / "timing.cache"
    with pytest.raises(BuildError, match=r"limited to 1e-06 GiB.*\(--workspace-gib\); timings are kept"):
        build(source, TOKENS, workspace_gib=1e-6, timing_cache=cache)
    assert cache.stat().st_size and not (tmp_path / "model.plan").exists()
    assert build(source, TOKENS, workspace_gib=4.0, timing_cache=cache).exists()


def test_a_plan_is_not_lost_with_its_timings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    assert build(source, TOKENS, timing_cache=source / "timing.cache", title="expert").exists()
    assert "the timings of expert are not kept: " in caplog.text


def test_an_operator_that_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    source = small_graphs.unsupported_graph(tmp_path / "model.onnx")
    with pytest.raises(BuildError, match="cannot read .*model.onnx: Det determinant"):
        build(source, {})
    assert not (tmp_path / "model.plan").exists()


def test_an_unknown_compute_capability_lists_those_that_are_known(tmp_path: Path) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    with pytest.raises(BuildError, match=r"compute capability '9.9', tensorrt_rtx knows: current, 7.5, 8.0, 8.6"):
        build(source, TOKENS, compute_capabilities=("9.9",))
    assert build(source, TOKENS, compute_capabilities=("8.6", "8.9")).exists()


def test_ctrl_c_and_sigterm_stop_a_build_and_leave_nothing() -> None:
    check_in_own_process("tests/unit/export/to_plan/signalled_builder.py")


def test_progress_is_counted_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export.to_plan import build_log

    bars: list[Any] = []

    class Bar(build_log.tqdm):  # type: ignore[misc, type-arg]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "disable": False})
            bars.append(self)

    monkeypatch.setattr(build_log, "tqdm", Bar)
    build(small_graphs.attention_graph(tmp_path / "model.onnx"), TOKENS, title="expert")
    (bar,) = bars
    assert bar.desc.startswith("expert") and bar.n == bar.total > 1


def test_tf32_is_cleared_unless_it_is_wanted(tmp_path: Path) -> None:
    """TensorRT computes FP32 products in TF32 by default."""
    trt_builder = trt.Builder(trt.Logger())
    model = onnx.load(small_graphs.attention_graph(tmp_path / "model.onnx"))
    assert trt_builder.create_builder_config().get_flag(trt.BuilderFlag.TF32), "its default"
    for wanted in (False, True):
        config = builder._config(trt, trt_builder, model, PlanShapes((TOKENS,)), BuildSettings(tf32=wanted))
        assert config.get_flag(trt.BuilderFlag.TF32) is wanted


def test_a_plan_is_written_as_it_is_made_and_the_same_without_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    pieces: list[int] = []
    original = builder.plan_writer

    def counted(module: Any, file: Any) -> Any:
        def write(data: bytes) -> int:
            pieces.append(len(data))
            return int(file.write(data))

        return original(module, SimpleNamespace(write=write))

    monkeypatch.setattr(builder, "plan_writer", counted)
    streamed = build(source, TOKENS).read_bytes()
    assert pieces and sum(pieces) == len(streamed)
    shapes = PlanShapes((TOKENS,))
    with build_in_memory(trt, source, shapes, BuildSettings(), attention=None) as (plan, _):
        assert len(bytes(plan)) == len(streamed)


def test_a_disk_that_fills_up_during_the_build_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    original = builder.plan_writer
    monkeypatch.setattr(builder, "plan_writer", lambda module, file: original(module, SimpleNamespace(write=full)))
    source = small_graphs.attention_graph(tmp_path / "model.onnx")
    with pytest.raises(OSError, match="No space left"):
        build(source, TOKENS)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]

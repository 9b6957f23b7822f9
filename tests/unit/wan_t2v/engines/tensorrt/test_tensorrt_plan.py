"""The TensorRT engine's own logic, on a fake TensorRT; and its words about a plan that the real one refuses."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes import fake_tensorrt
from wan_t2v.engines.by_size import EngineByShape
from wan_t2v.engines.tensorrt.profiles import ShapeError
from wan_t2v.engines.tensorrt.tensorrt_module import MODULES, TensorRtMissing, tensorrt_module
from wan_t2v.engines.tensorrt.tensorrt_plan import DTYPES, PlanError, TensorRtEngine

FREE = {"x": ("FLOAT", [1, -1]), "y": ("FLOAT", [1])}
TWO_SIZES = [{"x": [[1, size]] * 3, "y": [[1]] * 3} for size in (4, 6)]


def engine(path: Path, **options: Any) -> TensorRtEngine:
    return TensorRtEngine(path, device="cpu", module=fake_tensorrt, **options)


def inputs(size: int, value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"x": torch.full((1, size), value), "y": torch.tensor([value + 1])}


@pytest.fixture
def two_sizes(tmp_path: Path) -> TensorRtEngine:
    return engine(fake_tensorrt.plan(tmp_path / "model.plan", FREE, TWO_SIZES))


def test_outputs_have_their_names_types_and_values(two_sizes: TensorRtEngine) -> None:
    answer = two_sizes(inputs(4))
    assert answer["out_x"].tolist() == [[2, 2, 2, 2]] and answer["out_y"].tolist() == [4]
    assert answer["out_x"].dtype == torch.float32


def test_only_what_is_asked_for_is_returned_and_inputs_may_be_numpy(two_sizes: TensorRtEngine) -> None:
    answer = two_sizes({name: array.numpy() for name, array in inputs(6).items()}, ["out_y"])
    assert list(answer) == ["out_y"]
    assert np.asarray(answer["out_y"]).tolist() == [4]


def test_each_profile_has_a_context_and_shapes_choose_it(two_sizes: TensorRtEngine) -> None:
    for size in (6, 4, 6):
        two_sizes(inputs(size))
    contexts = two_sizes._engine.contexts
    assert [(context.profile, context.runs) for context in contexts] == [(0, 1), (1, 2)]
    assert contexts[0].memory == contexts[1].memory, "contexts that never run together share their memory"


def test_a_shape_outside_every_profile_is_refused_with_the_profiles(two_sizes: TensorRtEngine) -> None:
    with pytest.raises(ShapeError, match=r"x 1x5, y 1; it has profile 0: x 1x4, y 1; profile 1: x 1x6, y 1\."):
        two_sizes(inputs(5))


def test_overlapping_profiles_give_the_better_tuned_one(tmp_path: Path) -> None:
    ranges = [[[1, 1], [1, best], [1, 9]] for best in (2, 8)]
    plan = fake_tensorrt.plan(tmp_path / "p", {"x": ("FLOAT", [1, -1])}, [{"x": shapes} for shapes in ranges])
    made = engine(plan)
    for size in (1, 3, 7, 9):
        made({"x": torch.ones(1, size)})
    assert [context.runs for context in made._engine.contexts] == [2, 2]
    with pytest.raises(ShapeError, match=r"profile 0: x 1x1 to 1x9"):
        made({"x": torch.ones(1, 10)})


def test_a_static_plan_without_profiles_takes_its_shape(tmp_path: Path) -> None:
    made = engine(fake_tensorrt.plan(tmp_path / "p", {"x": ("FLOAT", [2])}))
    assert made({"x": torch.ones(2)})["out_x"].tolist() == [2, 2]
    with pytest.raises(ShapeError):
        made({"x": torch.ones(3)})


def test_buffers_that_fit_are_written_and_others_left_alone(two_sizes: TensorRtEngine) -> None:
    fits, too_small = torch.zeros(1, 4), torch.zeros(0)
    answer = two_sizes(inputs(4), buffers={"out_x": fits, "out_y": too_small})
    assert answer["out_x"] is fits and fits.tolist() == [[2, 2, 2, 2]]
    assert answer["out_y"].tolist() == [4]


def test_wrong_names_and_types_are_refused(two_sizes: TensorRtEngine) -> None:
    with pytest.raises(ValueError, match=r"inputs are \['x'\], the plan takes \['x', 'y'\]"):
        two_sizes({"x": torch.ones(1, 4)})
    with pytest.raises(ValueError, match=r"unknown outputs \['z'\], the plan has \['out_x', 'out_y'\]"):
        two_sizes(inputs(4), ["z"])
    with pytest.raises(ValueError, match=r"x is torch.bfloat16, the plan takes torch.float32"):
        two_sizes({**inputs(4), "x": torch.ones(1, 4, dtype=torch.bfloat16)})


def test_calls_from_several_threads_do_not_mix(two_sizes: TensorRtEngine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda value: (value, two_sizes(inputs(4 + 2 * (value % 2), float(value)))), range(64))
        assert all((answer["out_x"] == 2 * value).all() for value, answer in answers)


def test_a_plan_that_does_not_load_is_refused_with_the_reason_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "broken.plan").write_bytes(b"half of it")
    with pytest.raises(
        PlanError, match=r"broken.plan cannot be loaded by .*fake.*deploy.image.build_plans, in the .*magicTag failed"
    ) as raised:
        engine(tmp_path / "broken.plan")
    assert "only a warning" not in str(raised.value)
    (tmp_path / "empty.plan").write_bytes(b"")
    with pytest.raises(PlanError, match="is empty. Build it again: python3 -m deploy.image.build_plans"):
        engine(tmp_path / "empty.plan")


def test_a_refused_run_says_why_and_the_next_one_does_not_repeat_it(two_sizes: TensorRtEngine) -> None:
    context = two_sizes._engine.contexts[0]
    context.refuses = True
    for _ in range(2):
        with pytest.raises(PlanError, match=r"refused to run the plan \(out of memory\)$"):
            two_sizes(inputs(4))
    context.refuses = False
    assert two_sizes(inputs(4))["out_y"].tolist() == [4]


def test_a_type_that_torch_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="x has the type FP4; inputs and outputs can be FLOAT, HALF, BF16"):
        engine(fake_tensorrt.plan(tmp_path / "p", {"x": ("FP4", [2])}))


def test_the_module_is_chosen_in_one_place() -> None:
    with pytest.raises(TensorRtMissing, match="'openvino' is no TensorRT module, known: tensorrt, tensorrt_rtx"):
        tensorrt_module("openvino")
    if "tensorrt" not in [name for name in MODULES if _importable(name)]:
        with pytest.raises(TensorRtMissing, match="builds its plans: python3 -m deploy.image.build_plans"):
            tensorrt_module("tensorrt")


def _importable(name: str) -> bool:
    try:
        tensorrt_module(name)
    except TensorRtMissing:
        return False
    return True


class TestWithRealTensorRt:
    """NVIDIA's own library: it builds plans without a GPU and refuses to load them there."""

    @pytest.fixture(scope="class")
    def trt(self) -> Any:
        return pytest.importorskip("tensorrt_rtx")

    def test_it_has_every_type_of_the_table(self, trt: Any) -> None:
        assert set(DTYPES) <= set(trt.DataType.__members__)

    def test_it_has_everything_that_the_engine_calls(self, trt: Any) -> None:
        for name in ("Engine", "Context", "Runtime"):
            real = {"Engine": trt.ICudaEngine, "Context": trt.IExecutionContext, "Runtime": trt.Runtime}[name]
            own = vars(fake_tensorrt.__dict__[name])
            used = {key for key in own if not key.startswith("__")} - {"inputs", "outputs", "profiles", "contexts"}
            assert used <= set(dir(real)), name
        assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so the plan would load")
    def test_a_real_plan_is_refused_without_a_gpu_in_its_own_words(self, trt: Any, tmp_path: Path) -> None:
        path = tmp_path / "model.plan"
        path.write_bytes(_built(trt))
        with pytest.raises(PlanError, match=r"model.plan cannot be loaded by tensorrt_rtx \d.*CUDA"):
            TensorRtEngine(path, device="cpu", module=trt)


def _built(trt: Any) -> bytes:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.float32, (2,))
    network.mark_output(network.add_activation(x, trt.ActivationType.RELU).get_output(0))
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


def test_the_fake_keeps_its_promise(tmp_path: Path) -> None:
    path = fake_tensorrt.plan(tmp_path / "p", {"x": ("FLOAT", [2])})
    assert json.loads(path.read_text())["tensors"] == {"x": ["FLOAT", [2]]}


def test_static_plans_of_several_sizes_are_one_engine(tmp_path: Path) -> None:
    plans = [engine(fake_tensorrt.plan(tmp_path / str(size), {"x": ("FLOAT", [size])})) for size in (2, 3)]
    both = EngineByShape(plans)
    kept = torch.zeros(3)
    assert both({"x": torch.ones(2)})["out_x"].tolist() == [2, 2]
    assert both({"x": torch.ones(3)}, ["out_x"], buffers={"out_x": kept})["out_x"] is kept
    with pytest.raises(ShapeError, match=r"profile 0: x 2\..*profile 0: x 3\."):
        both({"x": torch.ones(4)})

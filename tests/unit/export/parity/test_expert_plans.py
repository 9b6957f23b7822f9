"""Plans along a generation, as far as that goes without a GPU: what is checked first, which size, which device."""

import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from export.__main__ import main
from export.checkpoint.folder import Checkpoint
from export.parity import expert_plans, teacher_forced
from export.parity.expert_plans import ExpertPlans, check_plans, plan_device, smallest_size
from export.parity.graph_parity import ParityError
from export.parity.teacher_forced import OneAtATime
from tests.fakes import fake_tensorrt
from tests.fakes.manifests import H100, plan_manifest
from wan_t2v.contract import EXPERTS
from wan_t2v.engines.onnx_runtime import OnnxRuntimeEngine
from wan_t2v.manifests import GraphManifest, TensorRtVersion, read_manifest, to_json
from wan_t2v.shapes import VideoShape

SIZES = ("64x96x9", "64x64x5", "64x64x9")


@pytest.fixture
def plans(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with plans of both experts that fit this machine, which has an H100 and the stand-in of TensorRT."""
    for name in EXPERTS:
        write_plan(tmp_path / "plans", exported, name)
    monkeypatch.setattr(expert_plans, "running_gpu", lambda: H100)
    monkeypatch.setattr(expert_plans, "tensorrt_module", lambda name: fake_tensorrt)
    monkeypatch.setattr(expert_plans, "plan_device", lambda needed: "cpu:0")
    return tmp_path / "plans"


def write_plan(repository: Path, exported: Path, name: str, **changes: Any) -> None:
    graph = read_manifest(GraphManifest, exported / name / "manifest.json")
    home = repository / name / "1"
    home.mkdir(parents=True, exist_ok=True)
    (home / "model.plan").write_bytes(b"a plan")
    manifest = {
        "graph": name,
        "sizes": SIZES,
        "precision": graph.precision,
        "onnx_sha256": graph.onnx_sha256,
        "tensorrt": TensorRtVersion("tensorrt", fake_tensorrt.__version__),
        **changes,
    }
    (home / "plan.json").write_text(to_json(plan_manifest(**manifest)))


class PlanOfTheGraph:
    """The graph in ONNX Runtime in the place of a plan; it takes torch tensors and one size."""

    def __init__(self, path: Path, seen: list[tuple[int, ...]]) -> None:
        self.engine, self.seen = OnnxRuntimeEngine(path), seen

    def __call__(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.seen.append(tuple(inputs["hidden_states"].shape))
        return self.engine({name: tensor.numpy() for name, tensor in inputs.items()}, outputs)


def test_plans_are_followed_at_the_smallest_of_their_sizes_on_their_device(
    plans: Path, checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    for path in exported.iterdir():
        (graphs / path.name).symlink_to(path)
    seen: list[tuple[int, ...]] = []
    loaded: list[tuple[Path, Any]] = []
    devices: list[tuple[str, str]] = []
    torch_experts = teacher_forced.torch_experts

    def plan(path: Path, settings: Any) -> PlanOfTheGraph:
        loaded.append((path.relative_to(plans), settings))
        return PlanOfTheGraph(exported / path.parents[1].name / "model.onnx", seen)

    def recorded(checkpoint: Checkpoint, precision: str, device: str = "cpu") -> Any:
        devices.append((precision, device))
        return torch_experts(checkpoint, precision, device)

    monkeypatch.setattr(expert_plans, "engine_from_file", plan)
    monkeypatch.setattr(teacher_forced, "torch_experts", recorded)
    monkeypatch.setattr("export.parity.graph_parity.parity_of", lambda *_, **__: [])
    asked = ["parity", "--checkpoint", str(checkpoint), "--folder", str(graphs), "--plans", str(plans), "--steps", "4"]
    assert main(asked) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [line["candidate"] for line in lines if "candidate" in line]
    assert names == ["torch bf16", "graph fp32", "plan fp32"]
    assert devices == [("fp32", "cpu:0"), ("bf16", "cpu:0")]
    assert [str(path) for path, _ in loaded] == [f"{name}/1/model.plan" for name in EXPERTS]
    assert all((s.engine, s.device, s.tensorrt_module) == ("tensorrt", "cpu:0", "tensorrt") for _, s in loaded)
    assert set(seen) == {(1, 16, 2, 8, 8)}, "64x64x5"


def refused(plans: Path, checkpoint: Path, exported: Path) -> str:
    with pytest.raises(ParityError) as error:
        check_plans(plans, exported, Checkpoint.open(checkpoint))
    return str(error.value)


def test_plans_that_do_not_fit_are_refused(plans: Path, checkpoint: Path, exported: Path) -> None:
    assert isinstance(check_plans(plans, exported, Checkpoint.open(checkpoint)), ExpertPlans)
    low = EXPERTS[1]
    write_plan(plans, exported, low, onnx_sha256="another")
    assert "the ONNX graph was exported again after it was built" in refused(plans, checkpoint, exported)
    write_plan(plans, exported, low, tensorrt=TensorRtVersion("tensorrt", "1"))
    assert "built with tensorrt 1, here runs tensorrt 0.fake" in refused(plans, checkpoint, exported)
    write_plan(plans, exported, low, sizes=("64x96x5",))
    assert "no size in common (high_noise_expert: 64x96x9, 64x64x5" in refused(plans, checkpoint, exported)
    (plans / low / "1/model.plan").unlink()
    assert f"{low}/1/model.plan is missing. --plans takes a model repository" in refused(plans, checkpoint, exported)


def test_without_a_gpu_nothing_is_begun(
    plans: Path, checkpoint: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("work was begun")

    for name in ("graph_parity.parity_of", "teacher_forced.reference_run"):
        monkeypatch.setattr(f"export.parity.{name}", never)
    monkeypatch.setattr(expert_plans, "plan_device", plan_device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = ["parity", "--checkpoint", str(checkpoint), "--folder", str(exported), "--plans", str(plans)]
    assert main(asked) == 1
    assert "sees no GPU, and plans are compared on one" in capsys.readouterr().err
    monkeypatch.setattr(expert_plans, "running_gpu", lambda: None)
    assert main(asked) == 1
    assert "it needs a GPU, and the driver shows none" in capsys.readouterr().err


def test_a_gpu_without_room_for_the_reference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * 10**9, 48 * 10**9))
    assert plan_device(39e9) == "cuda:0"
    with pytest.raises(ParityError, match=r"needs 69 GB of the GPU's memory, and 40 of 48 GB are free"):
        plan_device(68.6e9)


def test_the_smallest_size_is_the_one_with_the_fewest_tokens(checkpoint: Path) -> None:
    manifests = {name: plan_manifest(sizes=("720x1280x81", "480x832x81", "1280x720x81")) for name in EXPERTS}
    assert smallest_size(manifests, Checkpoint.open(checkpoint).facts) == VideoShape(81, 480, 832)


class Loaded:
    """An expert that the garbage collector alone can free."""

    def __init__(self, name: str) -> None:
        self.name, self.itself = name, self


def test_of_the_experts_one_is_loaded() -> None:
    """In FP32 an expert of A14B takes 57 GB."""
    alive: list[weakref.ref[Any]] = []

    def load(name: str) -> Any:
        assert not any(reference() for reference in alive), "the other is still there"
        expert = Loaded(name)
        alive.append(weakref.ref(expert))
        return expert

    experts: Any = OneAtATime(load)
    assert list(experts) == list(EXPERTS)
    names = [experts[name].name for name in (EXPERTS[0], EXPERTS[0], EXPERTS[1], EXPERTS[0])]
    assert names == [EXPERTS[0], EXPERTS[0], EXPERTS[1], EXPERTS[0]]
    assert len(alive) == 3
    with pytest.raises(KeyError):
        experts["vae"]

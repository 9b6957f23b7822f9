"""The copy of the repository whose models run on a GPU."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.repository import GRAPHS, LOOPS, PROBES, enable_expert_swap, gpu_repository, slow_load


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

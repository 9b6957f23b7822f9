"""Copy of the model repository with every model on one GPU, graphs in torch if possible, and the probe models."""

import re
import shutil
from pathlib import Path

from benchmarks.harness.repository_copy import add_parameter, copy_repository
from wan_t2v.contract import GRAPHS

LOOPS = ("denoiser", "vae_decoder", "text_to_video_stream")  # Python models that work on GPU tensors
PROBES = ("gpu_probe", "gpu_echo")
_STAYS_ON_GPU = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS", value { string_value: "no" } }\n'
_SLOW = """

_initialize = TritonPythonModel.initialize


def _initialize_when_told(self, args):
    import pathlib, time

    told = pathlib.Path(__file__).with_name("slow")
    time.sleep(float(told.read_text()) if told.exists() else 0)
    _initialize(self, args)


TritonPythonModel.initialize = _initialize_when_told
"""


def gpu_repository(repository: Path, folder: Path, *, on_gpu: bool) -> Path:
    """Copy the repository into `folder` and configure engines and devices. Without a GPU all models stay on the CPU."""
    copy = copy_repository(repository, folder)
    for probe in PROBES:
        shutil.copytree(Path(__file__).with_name("models") / probe, copy / probe)
    for model in (*GRAPHS, *LOOPS, *PROBES):
        config = copy / model / "configs/cpu.pbtxt"
        text = config.read_text(encoding="utf-8")
        if model in GRAPHS:
            text += f'parameters {{ key: "engine", value {{ string_value: "{engine_of(repository)}" }} }}\n'
        config.write_text(_place_on_gpu(text) if on_gpu else text, encoding="utf-8")
    return copy


def engine_of(repository: Path) -> str:
    """Return `torch` if the graphs' torch programs are installed, else `onnxruntime`, which runs on the CPU only."""
    return "torch" if (repository / "high_noise_expert/1/program.json").exists() else "onnxruntime"


def _place_on_gpu(config: str) -> str:
    text = re.sub(r"kind: KIND_CPU, count: \d+", "kind: KIND_GPU, count: 1, gpus: [ 0 ]", config)
    return text if "FORCE_CPU_ONLY_INPUT_TENSORS" in text else text + _STAYS_ON_GPU


def enable_expert_swap(repository: Path) -> None:
    """Configure this copy so that one expert is loaded at a time and loads can be slowed down."""
    for model in ("denoiser", "text_to_video_stream"):
        add_parameter(repository, model, "expert_residency", "one_at_a_time")
    for expert in ("high_noise_expert", "low_noise_expert"):
        config_path = repository / expert / "configs/cpu.pbtxt"
        config_path.write_text(config_path.read_text(encoding="utf-8").replace("count: 2", "count: 1"), "utf-8")
        with (repository / expert / "1/model.py").open("a", encoding="utf-8") as model_file:
            model_file.write(_SLOW)


def slow_load(repository: Path, model: str, seconds: float) -> None:
    """Make every later load of a model in this copy sleep for some seconds before it initializes."""
    (repository / model / "1/slow").write_text(str(seconds), encoding="ascii")

"""The experts' TensorRT plans of a model repository as candidates of the teacher-forced comparison, on a GPU.

A plan takes the sizes of its profiles alone, so the generation that is followed has the smallest of them. Everything
that could end the comparison is checked before it begins, which takes long for A14B.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from export.checkpoint.folder import Checkpoint
from export.manifest import manifest_of
from export.parity.graph_parity import ParityError
from export.parity.teacher_forced import InPrecision, OneAtATime
from wan_t2v.contract import EXPERTS
from wan_t2v.engines.loader import GRAPH_FILES, EngineSettings, engine_from_file
from wan_t2v.engines.tensorrt.plan_compatibility import PlanMismatch, Running, check_plan
from wan_t2v.engines.tensorrt.running_gpu import running_gpu
from wan_t2v.engines.tensorrt.tensorrt_module import tensorrt_module
from wan_t2v.experts import EngineExpert, Expert
from wan_t2v.facts import ModelFacts
from wan_t2v.manifests import BUILD_PLANS, PLAN_MANIFEST, PlanManifest, read_manifest
from wan_t2v.shapes import VideoShape

_PLAN_FILE = GRAPH_FILES["tensorrt"].name
_REFERENCE = 1.2 * 4  # bytes per parameter of an expert in FP32, with a fifth for what it computes


@dataclass(frozen=True)
class ExpertPlans:
    """Both experts' plans, which fit this machine and the exported graphs.

    Attributes:
        size: the smallest clip that both take.
        device: the GPU, by torch's name.
    """

    repository: Path
    manifests: Mapping[str, PlanManifest]
    size: VideoShape
    device: str

    def experts(self) -> Mapping[str, Expert]:
        """Load the plans into this process, one at a time."""
        return OneAtATime(self._load)

    def _load(self, name: str) -> Expert:
        manifest = self.manifests[name]
        settings = EngineSettings("tensorrt", self.device, tensorrt_module=manifest.tensorrt.module)
        engine = engine_from_file(_home(self.repository, name) / _PLAN_FILE, settings)
        return InPrecision(EngineExpert(engine), manifest.precision, self.device)


def check_plans(repository: Path, folder: Path, checkpoint: Checkpoint) -> ExpertPlans:
    """Check that the plans in `repository` can be compared here. `folder` has the graphs that they were built from.

    Raises ParityError, ManifestError or TensorRtMissing.
    """
    manifests = {name: _manifest(_home(repository, name)) for name in EXPERTS}
    for name, manifest in manifests.items():
        graph, module = manifest_of(folder / name), manifest.tensorrt.module
        onnx_sha256 = None if graph is None else graph.onnx_sha256
        try:
            check_plan(manifest, Running(module, tensorrt_module(module).__version__, running_gpu(), onnx_sha256))
        except PlanMismatch as error:
            raise ParityError(str(error)) from None
    size = smallest_size(manifests, checkpoint.facts)
    return ExpertPlans(repository, manifests, size, plan_device(_REFERENCE * checkpoint.architecture.expert.parameters))


def smallest_size(manifests: Mapping[str, PlanManifest], facts: ModelFacts) -> VideoShape:
    """Return the smallest clip that every plan has a profile for. Raises ParityError."""
    sizes = set.intersection(*(set(manifest.sizes) for manifest in manifests.values()))
    if not sizes:
        have = "; ".join(f"{name}: {', '.join(manifest.sizes)}" for name, manifest in manifests.items())
        raise ParityError(f"the experts' plans have no size in common ({have}). Build them together: {BUILD_PLANS}")
    return min(map(VideoShape.parse, sizes), key=lambda size: (facts.grid.tokens(size), size))


def plan_device(needed_bytes: float) -> str:
    """Return the GPU for the plans and their reference, which needs so much memory. Raises ParityError."""
    if not torch.cuda.is_available():
        raise ParityError(
            f"torch {torch.__version__} sees no GPU, and plans are compared on one. Run this in the serving image, on "
            "the machine that serves."
        )
    free, total = torch.cuda.mem_get_info("cuda:0")
    if free < needed_bytes:
        raise ParityError(
            f"an expert in FP32, the reference, needs {needed_bytes / 1e9:.0f} GB of the GPU's memory, and "
            f"{free / 1e9:.0f} of {total / 1e9:.0f} GB are free. Take a larger GPU, or stop what else is on it."
        )
    return "cuda:0"


def _home(repository: Path, name: str) -> Path:
    return repository / name / "1"


def _manifest(home: Path) -> PlanManifest:
    for name in (PLAN_MANIFEST, _PLAN_FILE):
        if not (home / name).exists():
            raise ParityError(f"{home / name} is missing. --plans takes a model repository that {BUILD_PLANS} made.")
    return read_manifest(PlanManifest, home / PLAN_MANIFEST)

"""Make the chart's placement table. Run `python -m deploy.placement_table`.

Helm cannot compute placements, so every deployment that the chart offers is placed here, with the functions of
`python -m export placement`. The chart looks up its values and refuses deployments that do not fit.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from export.atomic import write_atomically
from export.checkpoint.architecture import A14B
from export.placement.alternatives import find_alternatives
from export.placement.configs import server_options
from export.placement.gpu_memory import GIB, GpuMemory, ServingProfile, unique_sizes
from export.placement.gpus import Gpu
from export.placement.layouts import Placement
from export.placement.pick_layout import best_fit, best_of_each_layout
from export.placement.report import shortage
from wan_t2v.contract import STREAM, UNARY

TABLE = Path("deploy/helm/wan-t2v/files/placement.json")
REPOSITORY = Path("model_repository")
CONFIG_SET = "placed"

GPUS = tuple((size,) * count for size, count in product(("48", "80", "141"), (1, 2)))
SIZES = (
    ("480x832x81",),
    ("832x480x81",),
    ("720x1280x81",),
    ("1280x720x81",),
    ("480x832x81", "832x480x81"),
    ("480x832x81", "720x1280x81"),
    ("720x1280x81", "1280x720x81"),
    ("480x832x81", "832x480x81", "720x1280x81", "1280x720x81"),
)
EXPERTS = ("bf16", "fp8")
AS_FP8 = ("int8-bf16",)  # needs as much memory as FP8, so the chart reads FP8's rows for it
VAE = ("fp32", "bf16")
DOORS = {"both": (UNARY, STREAM), "stream": (STREAM,), "unary": (UNARY,)}

# Estimates of host memory, none of them measured on a GPU.
TORCH_PROCESS_GIB = 3.0  # a Python process with torch and CUDA: denoiser, vae_decoder, text_to_video_stream
PLAIN_PROCESS_GIB = 0.5  # a Python process without torch: prepare and mp4_encoder, two of each
SERVER_GIB = 4.0  # tritonserver, CUDA's host side, TensorRT
SHM_GIB_A_PROCESS = 0.0625
PROCESSES = {"torch": 3, "plain": 4}
PROGRAM_COPIES = 2  # copies of a torch program's weights while it is loaded: the file's content and the tensors
# On Triton 2.51 one tensor of 214 MiB, sent between two processes, left 1.17 GB of shared memory in use, which Triton
# never frees. Four processes handle frames: vae_decoder, two of mp4_encoder, text_to_video_stream.
FRAMES_IN_SHM = 6
PROCESSES_WITH_FRAMES = 4


def key(gpus: Sequence[str], sizes: Sequence[str], experts: str, vae: str, doors: str) -> str:
    """Return the chart's key of a deployment."""
    return " ".join(("+".join(gpus), ",".join(sizes), experts, vae, doors))


def table() -> dict[str, Any]:
    """Place every deployment of the chart."""
    rows = {key(*named): place(*named) for named in product(GPUS, SIZES, EXPERTS, VAE, DOORS)}
    return {
        "gpus": ["+".join(gpus) for gpus in GPUS],
        "sizes": [",".join(sizes) for sizes in SIZES],
        "optionSets": sorted({json.dumps(row["options"]) for row in rows.values() if "options" in row}),
        "rows": rows,
    }


def place(gpus: Sequence[str], sizes: Sequence[str], experts: str, vae: str, doors: str) -> dict[str, Any]:
    """Return one row: the best placement, or the reason why nothing fits and the alternatives."""
    memory = GpuMemory(A14B, ServingProfile(unique_sizes(sizes), experts, "bf16", vae, DOORS[doors]), {})
    machines = [Gpu.parse(gpu) for gpu in gpus]
    tried = best_of_each_layout(memory, machines)
    choice = best_fit(tried)
    if choice is None:
        nearest = max(tried, key=lambda placement: placement.least_free)
        helps = [
            alternative.change
            for alternative in find_alternatives(memory, machines)
            if alternative.placement is not None
        ]
        return {"why": shortage(nearest), "instead": helps}
    return {
        "layout": choice.layout.name.lower(),
        "verdict": choice.verdict.name.lower(),
        "textEncoder": "cpu" if choice.text_encoder_on_cpu else "gpu",
        "vaeEngine": choice.vae_engine.value,
        "gib": [round(choice.needed(gpu) / GIB, 1) for gpu in range(len(gpus))],
        "shmGib": shm_gib(choice),
        "memoryGib": memory_gib(choice),
        "options": server_options(choice, REPOSITORY, CONFIG_SET),
    }


def shm_gib(placement: Placement) -> int:
    """Estimate an upper bound of the shared memory of Triton's Python processes, in whole GiB."""
    frames = FRAMES_IN_SHM * PROCESSES_WITH_FRAMES * placement.memory.frames_bytes / GIB
    return _ceiling(frames + sum(PROCESSES.values()) * SHM_GIB_A_PROCESS)


def memory_gib(placement: Placement) -> int:
    """Estimate the pod's host memory in GiB: processes, shared memory, and the largest plan.

    Triton reads a whole plan into memory before it loads it. If experts are swapped, both plans are added, so that they
    stay in the page cache. A text encoder on the CPU has its weights in host memory, twice during its load.
    """
    plans = placement.memory.plans
    expert = plans["high_noise_expert"].weights / GIB
    largest = max(plan.weights for plan in plans.values()) / GIB
    resident = 2 * expert if placement.layout.name == "ONE_AT_A_TIME" else 0.0
    processes = PROCESSES["torch"] * TORCH_PROCESS_GIB + PROCESSES["plain"] * PLAIN_PROCESS_GIB
    on_cpu = _text_encoder_gib(placement) if placement.text_encoder_on_cpu else 0.0
    return _ceiling(largest + resident + processes + on_cpu + SERVER_GIB) + shm_gib(placement)


def _text_encoder_gib(placement: Placement) -> float:
    """Estimate a torch process with the text encoder's program and its activations, in GiB."""
    plan = placement.memory.plans["text_encoder"]
    return (PROGRAM_COPIES * plan.weights + plan.context) / GIB + TORCH_PROCESS_GIB


def _ceiling(number: float) -> int:
    return -int(-number // 1)


def write_table(path: Path = TABLE) -> Path:
    """Write the table with one row per line, so that diffs are readable. Returns its path."""
    content = table()
    with write_atomically(path) as partial:
        partial.write_text("\n".join(_lines(content)) + "\n", encoding="utf-8")
    return path


def _lines(content: dict[str, Any]) -> Iterator[str]:
    sets = content["optionSets"]
    yield "{"
    for name in ("gpus", "sizes"):
        yield f"{json.dumps(name)}: {json.dumps(content[name])},"
    yield '"optionSets": [' + ",\n".join(sets) + "],"
    rows = []
    for name, row in content["rows"].items():
        short = {**row, "options": sets.index(json.dumps(row["options"]))} if "options" in row else row
        rows.append(f"{json.dumps(name)}: {json.dumps(short)}")
    yield '"rows": {'
    yield ",\n".join(rows)
    yield "}}"


if __name__ == "__main__":
    print(f"wrote {write_table()}", file=sys.stderr)

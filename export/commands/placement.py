"""Command line of `python -m export placement`."""

import argparse
from pathlib import Path
from typing import Any

from export.placement.gpu_memory import VaeEngine


def add_placement(commands: Any, repository: Path) -> None:
    """Add the command to the parsers of `python -m export`; `repository` is the default model repository."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "placement", help="decide what goes on which GPU, as Triton configs"
    )
    parser.add_argument("--gpu", action="append", required=True, help="a GPU: its GB (80), or 81559MiB; twice for two")
    parser.add_argument(
        "--size", action="append", required=True, help="clip size, 720x1280 or 720x1280x81; again for more sizes"
    )
    parser.add_argument(
        "--precision", default="bf16", help="precision of the experts: bf16, fp16, fp8, fp32 (default: bf16)"
    )
    parser.add_argument(
        "--text-encoder-precision", default="bf16", help="precision of the text encoder: bf16 or fp32 (default: bf16)"
    )
    parser.add_argument(
        "--vae-precision", default="fp32", help="precision of the VAE: fp32, bf16 or fp16 (default: fp32)"
    )
    parser.add_argument(
        "--door", choices=("both", "stream", "unary"), default="both", help="endpoints to serve (default: both)"
    )
    parser.add_argument(
        "--text-encoder",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="where the text encoder runs (default: auto)",
    )
    parser.add_argument(
        "--vae-engine",
        choices=("auto", *(engine.value for engine in VaeEngine)),
        default="auto",
        help="what runs the VAE: Triton's plans, those plans or torch in the process that decodes (default: auto)",
    )
    parser.add_argument(
        "--experts-engine",
        choices=("tensorrt", "torch"),
        default="tensorrt",
        help="what runs the experts: TensorRT plans, or torch programs where no plan can be built (default: tensorrt)",
    )
    parser.add_argument("--checkpoint", type=Path, help="folder with the model's configs (default: A14B's, built in)")
    parser.add_argument("--repository", type=Path, default=repository, help="model repository (default: %(default)s)")
    parser.add_argument("--out", metavar="NAME", help="write the configs, as <model>/configs/NAME.pbtxt")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.set_defaults(command=_placement)


def _placement(options: argparse.Namespace) -> None:
    from export.placement.decide import decide

    decide(options)

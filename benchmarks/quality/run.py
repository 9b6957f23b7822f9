"""Measure time and quality of step profiles and precisions against exact generation, through servers.

    make quality        or        python -m benchmarks.quality.run --url 127.0.0.1:8001 --profiles fast

Without a file of prompts, wan-mini's fixed held-out prompts are generated, and a judge measures how often a clip shows
what its prompt asks for. A second seed of `exact` gives the scale: a profile that differs more from `exact` than that
makes other videos. `--also int8=FOLDER` (graphs of the same checkpoint, `make export PRECISION=int8`), `--also
bf16=openvino` (all graphs in OpenVINO) or `--also fp8=HOST:PORT` adds a server in another precision, exact and in each
profile. Writes quality.json, table.md and quality.png. The last line printed is the JSON.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from wan_t2v_client import ClientError, TextToVideo

from benchmarks.harness.machine import provenance
from benchmarks.harness.repository_copy import copy_repository, use_openvino
from benchmarks.quality.measure import OTHER_SEED, Way, WayClips, measure, profile_ways
from benchmarks.quality.report import table, write_plot
from embedded.errors import ServerError
from export.atomic import write_atomically
from export.to_onnx.install import install_export
from training.judge.adherence import judge_adherence
from training.judge.through_server import connect
from training.world.prompts import PROMPTS, Prompt, fixed_prompts
from wan_t2v.contract import GRAPHS
from wan_t2v.engines.loader import INFERENCE_PRECISIONS
from wan_t2v.facts import ServingDefaults

OPENVINO = "openvino"


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate, compare and write. Returns an exit code."""
    options = _parser().parse_args(arguments)
    about = provenance()
    if options.url and not options.profiles:
        print("error: --url needs --profiles: what that server calls its profiles is not known here", file=sys.stderr)
        return 2
    try:
        profiles = options.profiles or list(ServingDefaults.read(options.repository / "prepare/1").step_profiles)
        judged = None if options.prompts else fixed_prompts(options.count or PROMPTS)
        prompts = [(one.text, one.seed) for one in judged] if judged else _lines(options.prompts)[: options.count]
        with _connect(options, profiles) as ways:
            runs = measure(ways, prompts, keep_frames=judged is not None)
            for clips in tqdm(runs, desc="prompts", unit="prompt", total=len(prompts)):
                rows = {name: clip.row() for name, clip in clips.items()}
    except (ServerError, ClientError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    scored = {name: {**row, **_adherence(clips[name], judged)} for name, row in rows.items()}
    result = {**about, "prompts": len(prompts), "profiles": scored}
    _write(options.out, result)
    print(json.dumps(result))
    return 0


@contextlib.contextmanager
def _connect(options: argparse.Namespace, profiles: Sequence[str]) -> Iterator[dict[str, Way]]:
    """Yield the ways through all servers, by name. Raises ServerError, OSError or ValueError."""
    also = [_precision_and_place(text) for text in options.also]
    with contextlib.ExitStack() as stack:
        ways = profile_ways(stack.enter_context(connect(options.url, options.repository)), profiles)
        for precision, place in also:
            client = stack.enter_context(_connect_other(precision, place, options.repository))
            ways |= profile_ways(client, profiles, precision=precision)
        yield ways


@contextlib.contextmanager
def _connect_other(precision: str, place: str, repository: Path) -> Iterator[TextToVideo]:
    """Yield a client of the server at an address, or of a new server for a folder's graphs or for OpenVINO."""
    if not (Path(place).is_dir() or place == OPENVINO):
        with connect(place, repository) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="wan-t2v-quality-") as folder:
        copy = copy_repository(repository, Path(folder))
        if place == OPENVINO:
            use_openvino(copy, GRAPHS, precision=precision)
        else:
            install_export(Path(place), copy)
        with connect(None, copy, log=Path(folder) / "server.log") as client:
            yield client


def _precision_and_place(text: str) -> tuple[str, str]:
    precision, _, place = text.partition("=")
    in_openvino = place == OPENVINO and precision in INFERENCE_PRECISIONS
    if not precision or not place or not (Path(place).is_dir() or ":" in place or in_openvino):
        raise ValueError(
            f"--also {text}: accepted: PRECISION=FOLDER of exported graphs, PRECISION=HOST:PORT, or "
            f"{' or '.join(f'{name}={OPENVINO}' for name in INFERENCE_PRECISIONS)}"
        )
    return precision, place


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: an integer, 1 or more")
    return int(text)


def _lines(path: Path) -> list[tuple[str, int]]:
    """Read one prompt per line, with the line's number as its seed. Raises OSError or ValueError."""
    found = [(line.strip(), number) for number, line in enumerate(path.read_text(encoding="utf-8").splitlines())]
    if not any(text for text, _ in found):
        raise ValueError(f"{path} is empty, accepted: a prompt per line")
    return [(text, number) for text, number in found if text]


def _adherence(clips: WayClips, prompts: Sequence[Prompt] | None) -> dict[str, float]:
    if prompts is None:
        return {}
    scores = judge_adherence(clips.frames, prompts).scores
    return {"colour": scores.colour, "motion": scores.motion, "shape": scores.shape}


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = result["profiles"]
    for name, text in (("quality.json", json.dumps(result, indent=1)), ("table.md", "\n".join(table(rows)))):
        with write_atomically(folder / name) as partial:
            partial.write_text(f"{text}\n", encoding="utf-8")
    write_plot(
        folder / "quality.png", rows, title=f"{result['machine']}, {result['prompts']} prompts, {result['date']}"
    )
    print(f"{folder}: quality.json, table.md, quality.png; `{OTHER_SEED}` is the yardstick", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", help="gRPC address of a running server (default: start one)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument(
        "--profiles",
        nargs="+",
        help="names, or fields such as step_cache=0.05 (default: all that the repository names)",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="PRECISION=WHERE",
        help="another precision to measure: the folder of its graphs, a server's gRPC address, or openvino; repeatable",
    )
    parser.add_argument("--prompts", type=Path, help="file with a prompt per line (default: wan-mini's held-out list)")
    parser.add_argument("--count", type=_count, help="number of prompts, from the top (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out/quality"), help="folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())

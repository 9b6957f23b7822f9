"""Judge clips that a server generates, on the decoded MP4 files.

    make adherence        or        python -m training.judge.through_server --url 127.0.0.1:8001

Every prompt of the fixed held-out list is generated with the server's defaults and the prompt's own seed. Writes a
contact sheet with one strip per prompt, in the list's order. The last line printed is JSON: the share of clips that
match their prompt in `colour`, `motion` and `shape`, the chance level of each, and the median and longest seconds per
clip. With `--seeds 5` each prompt is generated with five seeds. The line then has the mean over the seeds, each seed's
scores as `scores_of_seeds`, and half the width of the mean's 95 % interval (Student's t) as `intervals`. The sheet is
of the first seed.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm
from wan_t2v_client import ClientError, Connection, TextToVideo

from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.server import running_server
from training.judge.adherence import ASPECTS, Adherence, Generate, judge_adherence
from training.world.prompts import PROMPTS, Prompt, fixed_prompts
from training.world.render import Frames

SERVER_LOG = Path("build/adherence-server.log")
OTHER_SEED = 1_000_003  # distance between the seeds of a prompt
# 97.5th percentiles of Student's t, for two to ten values (1 to 9 degrees of freedom).
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def frames_from_mp4(video: bytes) -> Frames:
    """Decode an MP4 to (T, H, W, 3) uint8 sRGB."""
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def generate_through(client: TextToVideo) -> Generate:
    """Return a generator for `measure_adherence` that uses the server's defaults and the given seed."""

    def generate(prompt: str, seed: int) -> Frames:
        video = client.generate(prompt, seed=seed).video
        assert video is not None  # the default output_type is mp4
        return frames_from_mp4(video)

    return generate


@contextlib.contextmanager
def connect(url: str | None, repository: Path, *, log: Path = SERVER_LOG) -> Iterator[TextToVideo]:
    """Yield a client of the server at `url`, or of a new server on free ports. Raises ServerError."""
    if url is not None:
        with TextToVideo(Connection(url)) as client:
            yield client
        return
    with (
        running_server(ServerOptions(repository=repository, log=log)) as server,
        TextToVideo(Connection(server.grpc_url)) as client,
    ):
        yield client


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate, judge and print the scores. Returns an exit code."""
    options = _parser().parse_args(arguments)
    prompts = fixed_prompts(options.prompts)
    seconds: list[float] = []
    clips: list[Frames] = []
    try:
        with connect(options.url, options.repository) as client:
            generate = generate_through(client)
            for prompt, seed in tqdm(_with_seeds(prompts, options.seeds), desc="clips", unit="clip"):
                started = time.monotonic()
                clips.append(generate(prompt.text, seed))
                seconds.append(time.monotonic() - started)
    except (ServerError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rounds = [clips[start : start + len(prompts)] for start in range(0, len(clips), len(prompts))]
    adherences = [judge_adherence(made, prompts, sheet=None if i else options.out) for i, made in enumerate(rounds)]
    print(f"contact sheet: {options.out}", file=sys.stderr)
    timed = {"median_s": round(statistics.median(seconds), 2), "longest_s": round(max(seconds), 2)}
    print(json.dumps({**line_of(adherences), **timed}))
    return 0


def _with_seeds(prompts: Sequence[Prompt], seeds: int) -> list[tuple[Prompt, int]]:
    """Return all prompts with their own seeds, then all prompts with each further seed."""
    return [(prompt, prompt.seed + OTHER_SEED * index) for index in range(seeds) for prompt in prompts]


def line_of(adherences: Sequence[Adherence]) -> dict[str, object]:
    """Return the record of one seed, or of several seeds: means, intervals and each seed's scores."""
    lines = [adherence.as_line() for adherence in adherences]
    if len(lines) == 1:
        return lines[0]
    by_name = {name: [float(str(line[name])) for line in lines] for name in lines[0] if name != "prompts"}
    means: dict[str, object] = {name: round(statistics.mean(values), 4) for name, values in by_name.items()}
    scores = {name: by_name[name] for name in (*ASPECTS, "all_three")}
    half_widths = {name: round(half_width(values), 4) for name, values in scores.items()}
    return {**means, "prompts": lines[0]["prompts"], "intervals": half_widths, "scores_of_seeds": scores}


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % confidence interval of the mean of two to ten values (Student's t)."""
    return STUDENT_T[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.judge.through_server", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", help="gRPC address of a running server (default: start one)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--out", type=Path, default=Path("out/adherence.png"), help="contact sheet")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="number of prompts, from the top of the list")
    parser.add_argument(
        "--seeds", type=int, choices=range(1, len(STUDENT_T) + 2), default=1, help="videos per prompt (default: 1)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

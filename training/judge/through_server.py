"""Judge clips that a running server generates, as their MP4 files decode.

    make adherence        or        python -m training.judge.through_server --url 127.0.0.1:8001

Every prompt of the fixed held-out list is generated with the server's defaults and its own seed. Writes a contact
sheet, one strip a prompt in the list's order, and prints one JSON line last: the share of prompts followed in `colour`,
`motion` and `shape`, beside each its chance level, and the median and longest seconds a clip took.
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
from training.judge.adherence import Generate, judge_adherence
from training.world.prompts import PROMPTS, fixed_prompts
from training.world.render import Frames


def frames_from_mp4(video: bytes) -> Frames:
    """Decode an MP4 to (T, H, W, 3) uint8 sRGB."""
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def generate_through(client: TextToVideo) -> Generate:
    """A generator for `measured_adherence`: the server's defaults, and the seed that it is given."""

    def generate(prompt: str, seed: int) -> Frames:
        video = client.generate(prompt, seed=seed).video
        assert video is not None  # the default output_type is mp4
        return frames_from_mp4(video)

    return generate


@contextlib.contextmanager
def connect(url: str | None, repository: Path) -> Iterator[TextToVideo]:
    """A client of the server at `url`, or of one started for this on free ports. Raises ServerError."""
    if url is not None:
        with TextToVideo(Connection(url)) as client:
            yield client
        return
    with (
        running_server(ServerOptions(repository=repository, log=Path("build/adherence-server.log"))) as server,
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
            for prompt in tqdm(prompts, desc="clips", unit="clip"):
                started = time.monotonic()
                clips.append(generate(prompt.text, prompt.seed))
                seconds.append(time.monotonic() - started)
    except (ServerError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    options.out.parent.mkdir(parents=True, exist_ok=True)
    adherence = judge_adherence(clips, prompts, sheet=options.out)
    print(f"contact sheet: {options.out}", file=sys.stderr)
    timed = {"median_s": round(statistics.median(seconds), 2), "longest_s": round(max(seconds), 2)}
    print(json.dumps({**adherence.as_line(), **timed}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.judge.through_server", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--url", help="gRPC address of a running server (default: start one)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--out", type=Path, default=Path("out/adherence.png"), help="contact sheet")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="number of prompts, from the top of the list")
    return parser


if __name__ == "__main__":
    sys.exit(main())

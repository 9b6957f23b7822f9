"""The command `wan-t2v`."""

import argparse
import errno
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wan_t2v_client.connection import Connection
from wan_t2v_client.errors import ClientError
from wan_t2v_client.generation import Generation
from wan_t2v_client.progress_bar import ProgressBar
from wan_t2v_client.text_to_video import TextToVideo

CANNOT_WRITE = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; failures end in one line on standard error and an exit code, never a traceback."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except ClientError as error:
        return _failed(str(error), error.exit_code)
    except OSError as error:
        where = error.filename or getattr(options, "out", "standard output")
        return _failed(f"{where}: {error.strerror}", CANNOT_WRITE)
    except KeyboardInterrupt:
        return _failed("stopped", 130)


def _failed(message: str, code: int) -> int:
    print(f"wan-t2v: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wan-t2v", description="Make videos from text on a Triton server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="one prompt to one MP4")
    generate.set_defaults(run=_generate)
    generate.add_argument("prompt", help="what the video shows")
    generate.add_argument("--out", type=Path, default=Path("video.mp4"), help="file to write (default: %(default)s)")
    generate.add_argument("--json", action="store_true", help="print one JSON object about the video, for programs")
    generate.add_argument("--unary", action="store_true",
                          help="use the unary door: no progress, and Ctrl-C does not stop the work")  # fmt: skip
    generate.add_argument(
        "--previews", type=Path, metavar="FOLDER", help="keep a small picture of every few steps here"
    )
    generate.add_argument(
        "--preview-every", type=int, default=5, metavar="STEPS", help="how many (default: %(default)s)"
    )
    _add_request_options(generate.add_argument_group("request (the server has a default for each)"))
    models = commands.add_parser("models", help="the server's models and how often each ran")
    models.set_defaults(run=_models)
    for command in (generate, models):
        _add_connection_options(command.add_argument_group("connection"))
    return parser


def _add_request_options(group: Any) -> None:
    group.add_argument("--negative-prompt", help="what to keep away from")
    group.add_argument("--size", type=_size, metavar="HEIGHTxWIDTH", help="pixels, such as 720x1280 for landscape")
    group.add_argument("--frames", type=int, dest="num_frames", help="number of frames, 4k+1")
    group.add_argument("--steps", type=int, dest="num_inference_steps", help="denoising steps")
    group.add_argument("--guidance-scale", type=float, help="guidance of the high-noise expert")
    group.add_argument("--guidance-scale-2", type=float, help="guidance of the low-noise expert")
    group.add_argument("--flow-shift", type=float, help="shift of the noise schedule")
    group.add_argument("--seed", type=int, help="of the starting noise; the same seed gives the same video")
    group.add_argument("--fps", type=int, help="frames a second of the MP4")


def _add_connection_options(group: Any) -> None:
    group.add_argument("--url", default="127.0.0.1:8001", help="gRPC address (default: %(default)s)")
    group.add_argument("--tls", action="store_true", help="encrypt the connection")
    group.add_argument("--ca-file", type=Path, help="PEM file of the authority that signed the server's certificate")
    group.add_argument("--key-file", type=Path, help="PEM file of this client's key")
    group.add_argument("--certificate-file", type=Path, help="PEM file of this client's certificate")
    group.add_argument("--header", type=_header, action="append", default=[], metavar="NAME:VALUE",
                       help="sent with every call, such as 'authorization:Bearer ...'; may be repeated")  # fmt: skip
    group.add_argument("--deadline-s", type=float, help="give up after this many seconds")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 128x128")
    return int(height), int(width)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    return name.strip().lower(), value.strip()


def _connection(options: argparse.Namespace) -> Connection:
    return Connection(
        url=options.url,
        tls=options.tls,
        ca_file=options.ca_file,
        key_file=options.key_file,
        certificate_file=options.certificate_file,
        headers=dict(options.header),
    )


_REQUEST_OPTIONS = [
    "negative_prompt",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "flow_shift",
    "seed",
    "fps",
]


def _generate(options: argparse.Namespace) -> int:
    fields = {name: getattr(options, name) for name in _REQUEST_OPTIONS}
    if options.size is not None:
        fields["height"], fields["width"] = options.size
    with _written(options.out) as file, TextToVideo(_connection(options)) as server:
        started = time.monotonic()
        generation = _generated(server, options, fields)
        file.write(generation.video)
    _tell(options, generation, seconds=round(time.monotonic() - started, 2))
    return 0


def _generated(server: TextToVideo, options: argparse.Namespace, fields: dict[str, Any]) -> Generation:
    """Through the door that was chosen, with what there is to show on the way."""
    if options.unary:
        with _elapsed_shown():
            return server.generate_unary(options.prompt, deadline_s=options.deadline_s, **fields)
    if options.previews is not None:
        options.previews.mkdir(parents=True, exist_ok=True)
        fields["preview_every"] = options.preview_every
    with ProgressBar(options.previews) as bar:
        return server.generate(options.prompt, on_progress=bar.show, deadline_s=options.deadline_s, **fields)


def _tell(options: argparse.Namespace, generation: Generation, *, seconds: float) -> None:
    settings = generation.metadata["settings"]
    if generation.metadata["prompt_truncated"]:
        print("wan-t2v: the prompt was longer than the model reads; its end was left out", file=sys.stderr)
    told = {
        "video": str(options.out),
        "frames": settings["num_frames"],
        "height": settings["height"],
        "width": settings["width"],
        "seconds": seconds,
        "seed": settings["seed"],
    }
    if options.json:
        print(json.dumps({**told, "metadata": generation.metadata}))
    else:
        print("{video}: {frames} frames of {height}x{width} in {seconds} s, seed {seed}".format(**told))


def _models(options: argparse.Namespace) -> int:
    with TextToVideo(_connection(options)) as server:
        for model in server.models(deadline_s=options.deadline_s):
            print("{name:20} version {version:3} {requests:6} requests {executions:6} executions".format(**model))
    return 0


@contextmanager
def _written(path: Path) -> Iterator[Any]:
    """Open a temporary file beside `path`, before any work is asked for; on success it takes the place of `path`."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink()
        raise


@contextmanager
def _elapsed_shown() -> Iterator[None]:
    """Count the seconds on a terminal: the unary door tells nothing until it is done."""
    done = threading.Event()

    def count() -> None:
        started = time.monotonic()
        while not done.wait(0.5):
            print(f"\rgenerating, {time.monotonic() - started:.0f} s ", end="", file=sys.stderr, flush=True)
        print("\r\033[K", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=count, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


if __name__ == "__main__":
    sys.exit(main())

"""`wan-t2v generate`: one prompt to one MP4."""

import argparse
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wan_t2v_client.cli.arguments import (
    add_connection_options,
    add_field_options,
    add_patience_options,
    add_request_options,
    connection_from,
    fields_from,
    idle_limit_from,
    retry_from,
)
from wan_t2v_client.cli.output_file import OutputFile, make_folder
from wan_t2v_client.cli.progress_bar import ProgressBar
from wan_t2v_client.cli.standard_streams import is_terminal, print_result, tell
from wan_t2v_client.errors import RequestRefused
from wan_t2v_client.fields import PARAMETERS, encode_fields
from wan_t2v_client.generation import Generation
from wan_t2v_client.text_to_video import TextToVideo
from wan_t2v_client.transport.connection import Connection

PREVIEW_EVERY = 5  # steps


def add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    command = commands.add_parser("generate", help="one prompt to one MP4")
    command.set_defaults(run=_generate)
    command.add_argument("prompt", help="what the video shows")
    command.add_argument("--out", type=_file, default=Path("video.mp4"),
                         help="file to write; - is standard output (default: %(default)s)")  # fmt: skip
    command.add_argument("--json", action="store_true", help="print one JSON object about the video, for programs")
    command.add_argument("--unary", action="store_true",
                         help="use the unary endpoint: no progress, and Ctrl-C does not stop the work")  # fmt: skip
    command.add_argument(
        "--previews", type=Path, metavar="FOLDER", help="folder for previews, a small picture every few steps"
    )
    command.add_argument(
        "--preview-every",
        type=int,
        metavar="STEPS",
        help=f"steps between previews (default: {PREVIEW_EVERY})",
    )
    add_request_options(command)
    add_field_options(command, PARAMETERS)
    add_patience_options(command)
    add_connection_options(command)


def _file(text: str) -> Path:
    """Parse the path of a file. A Path would lose the slash that makes a folder's of it."""
    if text.replace(os.sep, "/").rpartition("/")[2] in ("", ".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file")
    return Path(text)


def _generate(options: argparse.Namespace) -> int:
    _refuse_without_effect(options)
    connection, fields = connection_from(options), _fields(options)  # before OutputFile, which makes folders
    with OutputFile(options.out) as out:
        started = time.monotonic()
        generation = _generate_video(options, connection, fields=fields)
        assert generation.video is not None  # no other output is requested
        out.write(generation.video)
        report = _report(options, generation, seconds=round(time.monotonic() - started, 2))
        if out.is_standard_output:
            tell(report)
        else:
            print_result(report)
    return 0


def _refuse_without_effect(options: argparse.Namespace) -> None:
    """Raise RequestRefused for an option that another one makes useless."""
    given = {
        "--previews": options.previews is not None,
        "--preview-every": options.preview_every is not None,
        "--idle-limit-s": options.idle_limit_s is not None,
        "--retry-after-progress": options.retry_after_progress,
    }
    useless = [option for option, is_given in given.items() if is_given]
    if options.unary and useless:
        raise RequestRefused(f"{', '.join(useless)}: no effect with --unary, whose endpoint tells nothing on the way")
    if given["--preview-every"] and not given["--previews"]:
        raise RequestRefused("--preview-every: no effect without --previews, the folder for them")


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """Return the request's fields. Raises RequestRefused for values that cannot be sent."""
    fields = fields_from(options) | {name: getattr(options, name) for name in PARAMETERS}
    if options.previews is not None:
        fields["preview_every"] = PREVIEW_EVERY if options.preview_every is None else options.preview_every
    encode_fields({"prompt": options.prompt, **fields})
    return fields


def _generate_video(options: argparse.Namespace, connection: Connection, *, fields: dict[str, Any]) -> Generation:
    """Generate through the chosen endpoint and show progress."""
    if options.unary:
        with _show_elapsed(), TextToVideo(connection, retry=retry_from(options)) as server:
            return server.generate_unary(options.prompt, deadline_s=options.deadline_s, **fields)
    if options.previews is not None:
        make_folder(options.previews)
    with ProgressBar(options.previews) as bar:
        retry = dataclasses.replace(retry_from(options), on_wait=bar.show_wait)
        with TextToVideo(connection, retry=retry) as server:
            return server.generate(
                options.prompt,
                on_progress=bar.show,
                on_heartbeat=bar.show_heartbeat,
                deadline_s=options.deadline_s,
                idle_limit_s=idle_limit_from(options),
                **fields,
            )


def _report(options: argparse.Namespace, generation: Generation, *, seconds: float) -> str:
    settings = generation.metadata["settings"]
    if generation.metadata["prompt_truncated"]:
        tell("wan-t2v: the prompt was longer than the model reads; its end was left out")
    facts = {
        "video": str(options.out),
        "frames": settings["num_frames"],
        "height": settings["height"],
        "width": settings["width"],
        "seconds": seconds,
        "seed": settings["seed"],
    }
    if options.json:
        return json.dumps({**facts, "metadata": generation.metadata})
    return "{video}: {frames} frames of {height}x{width} in {seconds} s, seed {seed}".format(**facts)


@contextmanager
def _show_elapsed() -> Iterator[None]:
    """Count the seconds on a terminal: the unary endpoint sends nothing until it is done."""
    done = threading.Event()

    def count() -> None:
        started = time.monotonic()
        while not done.wait(0.5):
            tell(f"\rgenerating, {time.monotonic() - started:.0f} s ", end="")
        tell("\r\033[K", end="")

    thread = threading.Thread(target=count, daemon=True)
    if is_terminal():
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join()

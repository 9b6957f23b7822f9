"""Arguments that the commands share, and what they become."""

import argparse
from pathlib import Path
from typing import Any

from wan_t2v_client.connection import Connection
from wan_t2v_client.keepalive import KEEPALIVE_S
from wan_t2v_client.retry import RetryPolicy
from wan_t2v_client.watchdog import IDLE_LIMIT_S

_FIELDS = (
    "negative_prompt",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "flow_shift",
    "seed",
    "fps",
)


def add_request_options(command: argparse.ArgumentParser) -> None:
    """The fields of a request."""
    group = command.add_argument_group("request (the server has a default for each)")
    group.add_argument("--negative-prompt", help="what to keep away from")
    group.add_argument("--size", type=_size, metavar="HEIGHTxWIDTH", help="pixels, such as 720x1280 for landscape")
    group.add_argument("--frames", type=int, dest="num_frames", help="number of frames, 4k+1")
    group.add_argument("--steps", type=int, dest="num_inference_steps", help="denoising steps")
    group.add_argument("--guidance-scale", type=float, help="guidance of the high-noise expert")
    group.add_argument("--guidance-scale-2", type=float, help="guidance of the low-noise expert")
    group.add_argument("--flow-shift", type=float, help="shift of the noise schedule")
    group.add_argument("--seed", type=int, help="of the starting noise; the same seed gives the same video")
    group.add_argument("--fps", type=int, help="frames a second of the MP4")


def fields_from(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that were given, by name."""
    fields = {name: getattr(options, name) for name in _FIELDS}
    if options.size is not None:
        fields["height"], fields["width"] = options.size
    return {name: value for name, value in fields.items() if value is not None}


def add_connection_options(command: argparse.ArgumentParser) -> None:
    """Where the server is."""
    group = command.add_argument_group("connection")
    group.add_argument("--url", default="127.0.0.1:8001", help="gRPC address (default: %(default)s)")
    group.add_argument("--tls", action="store_true", help="encrypt the connection")
    group.add_argument("--ca-file", type=Path, help="PEM file of the authority that signed the server's certificate")
    group.add_argument("--key-file", type=Path, help="PEM file of this client's key")
    group.add_argument("--certificate-file", type=Path, help="PEM file of this client's certificate")
    group.add_argument("--header", type=_header, action="append", default=[], metavar="NAME:VALUE",
                       help="sent with every call, such as 'authorization:Bearer ...'; may be repeated")  # fmt: skip
    group.add_argument("--deadline-s", type=float, help="give up after this many seconds, for each video")
    group.add_argument("--keepalive-s", type=float, default=KEEPALIVE_S, metavar="SECONDS",
                       help="between pings during a call (default: %(default)s, which any server accepts)")  # fmt: skip


def connection_from(options: argparse.Namespace) -> Connection:
    """The connection that the options describe."""
    return Connection(
        url=options.url,
        tls=options.tls,
        ca_file=options.ca_file,
        key_file=options.key_file,
        certificate_file=options.certificate_file,
        headers=dict(options.header),
        keepalive_s=options.keepalive_s,
    )


def add_patience_options(command: argparse.ArgumentParser) -> None:
    """How long to wait for what."""
    group = command.add_argument_group("patience")
    group.add_argument("--attempts", type=positive, default=RetryPolicy.attempts, metavar="N",
                       help="tries while the server is unavailable; 1 for no retry (default: %(default)s)")  # fmt: skip
    group.add_argument("--retry-after-progress", action="store_true",
                       help="try again also after steps were done, which are then paid for twice")  # fmt: skip
    group.add_argument("--idle-limit-s", type=float, default=IDLE_LIMIT_S, metavar="SECONDS",
                       help="how long a running video may be silent (default: %(default)s, or five steps)")  # fmt: skip


def retry_from(options: argparse.Namespace) -> RetryPolicy:
    """How often to try."""
    return RetryPolicy(attempts=options.attempts, after_progress=options.retry_after_progress)


def positive(text: str) -> int:
    """A number from 1 on."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


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

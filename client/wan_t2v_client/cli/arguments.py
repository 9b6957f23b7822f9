"""Command-line options that several commands share, and the objects made of them."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wan_t2v_client.cli.standard_streams import tell
from wan_t2v_client.deadline import LONGEST_S, check_seconds
from wan_t2v_client.errors import RequestRefused
from wan_t2v_client.fields import FIELDS, Field
from wan_t2v_client.retry import RetryPolicy
from wan_t2v_client.transport.connection import Connection
from wan_t2v_client.transport.headers import header_from_text, headers_from_file, headers_from_lines
from wan_t2v_client.transport.keepalive import KEEPALIVE_S, LEAST_KEEPALIVE_S, LONGEST_KEEPALIVE_S
from wan_t2v_client.watchdog import IDLE_LIMIT_S

HEADERS_VARIABLE = "WAN_T2V_HEADERS"
_TYPES = {"BYTES": str, "INT32": int, "INT64": int, "FP32": float}


def add_request_options(command: argparse.ArgumentParser) -> None:
    """Add an option for each request field that has one."""
    group = command.add_argument_group("request (defaults and ranges are the server's: wan-t2v limits)")
    group.add_argument("--size", type=_size, metavar="HEIGHTxWIDTH", help="pixels, such as 720x1280 for landscape")
    add_field_options(group, FIELDS)


def add_field_options(group: argparse._ActionsContainer, fields: Mapping[str, Field]) -> None:
    """Add an option for each of these fields that has a help text."""
    for name, field in fields.items():
        if field.help:
            option = field.option or f"--{name.replace('_', '-')}"
            group.add_argument(option, dest=name, type=_TYPES[field.datatype], metavar=field.metavar, help=field.help)


def fields_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that were given, by name."""
    fields = {name: getattr(options, name) for name, field in FIELDS.items() if field.help}
    if options.size is not None:
        fields["height"], fields["width"] = options.size
    return {name: value for name, value in fields.items() if value is not None}


def add_connection_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the connection to the server."""
    group = command.add_argument_group("connection")
    group.add_argument("--url", default="127.0.0.1:8001", help="gRPC address (default: %(default)s)")
    group.add_argument("--tls", action="store_true", help="encrypt the connection")
    group.add_argument("--ca-file", type=Path, help="PEM file of the authority that signed the server's certificate")
    group.add_argument("--key-file", type=Path, help="PEM file of this client's key")
    group.add_argument("--certificate-file", type=Path, help="PEM file of this client's certificate")
    group.add_argument("--header", type=_header, action="append", default=[], metavar="NAME:VALUE",
                       help="sent with every call; may be repeated. Any user of this machine can read it in the list "
                            "of processes")  # fmt: skip
    group.add_argument("--header-file", type=Path, metavar="FILE",
                       help="file with one NAME:VALUE per line, for secret headers; "
                            f"the variable {HEADERS_VARIABLE} has the same form")  # fmt: skip
    group.add_argument("--deadline-s", type=_seconds(), metavar="SECONDS",
                       help="give up after this time, per video")  # fmt: skip
    keepalive = _seconds(least=LEAST_KEEPALIVE_S, longest=LONGEST_KEEPALIVE_S)
    group.add_argument("--keepalive-s", type=keepalive, default=KEEPALIVE_S, metavar="SECONDS",
                       help="between pings in a call (default: %(default)s, which any server accepts)")  # fmt: skip


def connection_from(options: argparse.Namespace) -> Connection:
    """Make the connection that the options describe. Warns about a secret header that is sent unencrypted."""
    connection = Connection(
        url=options.url,
        tls=options.tls,
        ca_file=options.ca_file,
        key_file=options.key_file,
        certificate_file=options.certificate_file,
        headers=_headers(options),
        keepalive_s=options.keepalive_s,
    )
    connection.check()
    for name in connection.readable_headers():
        tell(f"wan-t2v: warning: the header {name} goes out unencrypted; add --tls")
    return connection


def _headers(options: argparse.Namespace) -> dict[str, str]:
    """Merge headers of the environment, the file and the options; later ones override earlier ones."""
    headers = headers_from_lines(os.environ.get(HEADERS_VARIABLE, ""), source=HEADERS_VARIABLE)
    if options.header_file is not None:
        headers |= headers_from_file(options.header_file)
    return headers | dict(options.header)


def add_patience_options(command: argparse.ArgumentParser) -> None:
    """Add the options for retries and waiting."""
    group = command.add_argument_group("patience")
    group.add_argument("--attempts", type=positive, default=RetryPolicy.attempts, metavar="N",
                       help="tries while the server is unavailable; 1 for no retry (default: %(default)s)")  # fmt: skip
    group.add_argument("--retry-after-progress", action="store_true",
                       help="retry even after finished steps, which are then computed twice")  # fmt: skip
    group.add_argument("--idle-limit-s", type=_seconds(), metavar="SECONDS",
                       help=f"longest silence of a running video (default: {IDLE_LIMIT_S}, or five steps)")  # fmt: skip


def retry_from(options: argparse.Namespace) -> RetryPolicy:
    """Make the retry policy that the options describe."""
    return RetryPolicy(attempts=options.attempts, after_progress=options.retry_after_progress)


def idle_limit_from(options: argparse.Namespace) -> float:
    """Return the longest silence, which has no default in the options: so they tell whether it was given."""
    return IDLE_LIMIT_S if options.idle_limit_s is None else float(options.idle_limit_s)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 128x128")
    return int(height), int(width)


def _header(text: str) -> tuple[str, str]:
    try:
        return header_from_text(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(*, least: float = 0.0, longest: float = LONGEST_S) -> Callable[[str], float]:
    """Make the type of an option that is a number of seconds."""

    def seconds(text: str) -> float:
        try:
            number = float(text)
            check_seconds(text, number, least=least, longest=longest)
        except (ValueError, RequestRefused):
            accepted = f"a number of seconds from {least:g} to {longest:.0f}"
            raise argparse.ArgumentTypeError(f"got {text[:40]!r}; accepted: {accepted}") from None
        return number

    return seconds

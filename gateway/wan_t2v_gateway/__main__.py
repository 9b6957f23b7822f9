"""Serve the gateway; with `keys`, `queue` or `usage`, run an administrator's command instead."""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

from wan_t2v_gateway.app import gateway_app
from wan_t2v_gateway.database.call_limit import DatabaseUnavailable
from wan_t2v_gateway.database.local_postgres import LocalPostgresError, local_postgres
from wan_t2v_gateway.database.waiting import NO_KEY, CannotListen, Patience, has_key, wait_for_database
from wan_t2v_gateway.generation.marking import MarkingError
from wan_t2v_gateway.http_server import HttpServer
from wan_t2v_gateway.keys_command import add_keys_options, run_keys
from wan_t2v_gateway.operator_command import add_queue_options, add_usage_options, run_queue, run_usage
from wan_t2v_gateway.settings import Settings
from wan_t2v_gateway.storage.store import UnknownStore
from wan_t2v_gateway.tracing import TracingError

VARIABLES = "WAN_T2V_GATEWAY_"  # environment variables for values with passwords: any user can read arguments
_DEFAULTS = Settings()
_DAY_S, _GIB = 24 * 3600.0, 2**30
_MOST_DAYS = 36_500.0  # a century: later dates are of no use, and Postgres has a last one
_MOST_GIB = 2.0**32  # in bytes within a bigint
_MOST_WORKERS = 1000
_LONGEST_REDIRECT_S = 7 * _DAY_S  # buckets sign for no longer
_COMMANDS: tuple[tuple[str, Any, Any, str], ...] = (
    ("keys", run_keys, add_keys_options, "make, list and withdraw keys"),
    ("queue", run_queue, add_queue_options, "pause the queue, and let it go on"),
    ("usage", run_usage, add_usage_options, "what owners use and used"),
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns an exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    settings = _settings(options)
    if settings.redirect_s and not settings.store_url:
        parser.error("--redirects: files in a folder have no address of their own; it needs --store-url")
    if not _can_be_read(settings.database_url):  # the reason may have the password in it
        parser.error("--database-url: accepted: such as postgresql://USER:PASSWORD@HOST:5432/NAME")
    try:
        with _ended_by_signals(), _with_database(settings) as settings:
            return options.run(settings.database_url, options) if options.command else _serve(settings, options)
    except (LocalPostgresError, DatabaseUnavailable, MarkingError, TracingError, UnknownStore, CannotListen) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _can_be_read(database_url: str) -> bool:
    try:
        psycopg.conninfo.conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        return False
    return True


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        server_url=options.url,
        data=options.data,
        database_url=options.database_url,
        store_url=options.store_url,
        redirect_s=options.redirects,
        mark=options.mark,
        workers=options.workers,
        resumes=options.resumes,
        keep_s=options.keep_days * _DAY_S,
        keep_bytes=round(options.keep_gib * _GIB),
        webhook_hosts=tuple(options.webhook_host),
        traces_url=options.traces_url,
    )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end a command, until uvicorn installs its own handler, and SIGHUP do whatever SIGTERM does.

    A terminal that closes sends SIGHUP, which would leave the local database running. nohup's stays ignored.
    """
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _end)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wan-t2v-gateway", description=__doc__)
    parser.add_argument("--url", default=_DEFAULTS.server_url, help="the server's gRPC address (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_whole(65_535), default=8080, help="port to listen on (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=_DEFAULTS.data, help="local database and files (%(default)s)")
    parser.add_argument(
        "--database-url",
        default=os.environ.get(f"{VARIABLES}DATABASE_URL", ""),
        help=f"URL of a Postgres (or {VARIABLES}DATABASE_URL; default: a local one in --data)",
    )
    _add_file_options(parser)
    parser.add_argument(
        "--workers", type=_whole(_MOST_WORKERS), default=1, help="videos generated at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--wait-for-database", action="store_true", help="wait for a database that is away; else it ends the start"
    )
    parser.add_argument("--resumes", action="store_true", help="the server keeps checkpoints, so that jobs can resume")
    parser.add_argument("--webhook-host", action="append", default=[], help="a private host that webhooks may reach")
    parser.add_argument(
        "--traces-url", default="", help="an OpenTelemetry collector, such as http://...:4318/v1/traces"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, run, add_options, text in _COMMANDS:
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        add_options(command)
    return parser


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store-url",
        default=os.environ.get(f"{VARIABLES}STORE_URL", ""),
        help=f"store of files, such as s3://bucket (or {VARIABLES}STORE_URL; default: a folder in --data)",
    )
    parser.add_argument(
        "--redirects",
        type=_seconds(_LONGEST_REDIRECT_S),
        default=0.0,
        metavar="SECONDS",
        help="redirect callers to signed URLs of the bucket, valid for this time",
    )
    parser.add_argument(
        "--mark",
        default="",
        metavar="FOLDER",
        help="sign files as made by a model: chain.pem and key.pem, or `development`",
    )
    parser.add_argument(
        "--keep-days",
        type=_kept(_MOST_DAYS),
        default=_DEFAULTS.keep_s / _DAY_S,
        metavar="DAYS",
        help="age at which a job expires, with its files (default: %(default)g)",
    )
    parser.add_argument(
        "--keep-gib",
        type=_kept(_MOST_GIB),
        default=_DEFAULTS.keep_bytes / _GIB,
        metavar="GIB",
        help="most GiB of all owners' videos together; beyond it the oldest expire (default: %(default)g)",
    )


def _whole(most: int) -> Callable[[str], int]:
    """Make the parser of a whole number from 0."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a whole number from 0 to {most}")

    return parse


def _seconds(most: float) -> Callable[[str], float]:
    """Make the parser of a time in seconds, from 0."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a number of seconds from 0 to {most:.0f}")

    return parse


def _kept(most: float) -> Callable[[str], float]:
    """Make the parser of an amount that is kept: a number above 0."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 < float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a number above 0, at most {most:.0f}")

    return parse


@contextlib.contextmanager
def _with_database(settings: Settings) -> Iterator[Settings]:
    if settings.database_url:
        yield settings
        return
    with local_postgres(settings.data / "database") as url:
        yield replace(settings, database_url=url)


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    is_open = _is_loopback(options.host)
    if options.wait_for_database:
        wait_for_database(
            settings.database_url, Patience(), host=options.host, port=options.port, needs_key=not is_open
        )
    elif not is_open and not asyncio.run(has_key(settings.database_url)):
        reached = f"--host {options.host} is reached from other machines"
        print(f"error: {reached} and {NO_KEY} or listen on 127.0.0.1", file=sys.stderr)
        return 2
    app = gateway_app(settings, open_access=is_open)
    if not settings.resumes:
        print("the server keeps no generations: a job that is interrupted starts again", file=sys.stderr)
    print(f"http://{options.host}:{options.port}/ (server: {settings.server_url})", file=sys.stderr)
    server = HttpServer(app, options.host, options.port)
    # At its end uvicorn raises the signal again, which must not prevent the stop of the database.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: None)
    server.run()
    return 0 if server.started else 1


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())

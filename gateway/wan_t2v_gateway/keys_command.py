"""`wan-t2v-gateway keys`: make, list and withdraw keys."""

import argparse
import asyncio
import contextlib
import json
import math
import sys
from typing import Any

from wan_t2v_gateway.database import owners
from wan_t2v_gateway.database.pool import Database


def add_keys_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `keys`. `make NAME` replaces an existing key; options that are not given stay as they are."""
    command.add_argument("action", choices=("make", "list", "withdraw", "secret"), help="what to do")
    command.add_argument("name", nargs="?", default="", help="the owner's name")
    owner = command.add_argument_group(
        "options of the owner", "with make; those of an owner who is there stay as they are unless they are given"
    )
    owner.add_argument(
        "--administrator",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="may see all owners' videos and pause the queue",
    )
    for option, kind, text in (
        ("--webhook-url", str, "webhook for jobs that name none; '' for no webhook"),
        ("--class", str, "class of the owner, by which metrics count jobs (standard for a new one)"),
        ("--most-queued", _whole_limit, "jobs that may wait at a time, or none for no limit"),
        ("--most-running", _whole_limit, "jobs that may run at a time, or none for no limit"),
        ("--most-seconds-a-day", _limit, "seconds of generation in 24 hours, or none for no limit"),
    ):
        owner.add_argument(option, type=kind, default=argparse.SUPPRESS, help=text)


def _whole_limit(text: str) -> int | None:
    """Parse a limit on a number of jobs; `none` is no limit."""
    if text == "none":
        return None
    if not (text.isdecimal() and len(text) < 10):  # the column is a 32-bit integer
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a whole number below 1000000000, or none")
    return int(text)


def _limit(text: str) -> float | None:
    """Parse a limit on seconds; `none` is no limit."""
    if text == "none":
        return None
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a number from 0, or none")


def run_keys(database_url: str, options: argparse.Namespace) -> int:
    """Run `keys`. Returns an exit code."""
    if options.action != "list" and not options.name:
        command = f"keys {options.action}"
        print(f"error: {command} needs the owner's name: wan-t2v-gateway {command} NAME", file=sys.stderr)
        return 2
    return asyncio.run(_run(database_url, options))


async def _run(database_url: str, options: argparse.Namespace) -> int:
    async with Database(database_url) as database:
        return await _act(database, options)


async def _act(database: Database, options: argparse.Namespace) -> int:
    if options.action == "list":
        for entry in await owners.list_owners(database):
            print(json.dumps(entry, default=str))
    elif options.action == "secret":
        print(await owners.webhook_secret(database, options.name))
    elif options.action == "withdraw":
        if not await owners.withdraw(database, options.name):
            print(f"error: {options.name} has no key", file=sys.stderr)
            return 1
    else:
        await _make(database, options)
    return 0


async def _make(database: Database, options: argparse.Namespace) -> None:
    """Make a key and print it; say on the error stream if it replaces one."""
    given: Any = {name: value for name, value in vars(options).items() if name in owners.OPTIONS}
    if await owners.has_key(database, options.name):
        print(
            f"replaced: the key that {options.name} had is no longer accepted; options that were not given stay",
            file=sys.stderr,
        )
    print(await owners.make_key(database, options.name, given))

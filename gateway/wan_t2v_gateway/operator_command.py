"""The administrator's commands `wan-t2v-gateway queue` and `wan-t2v-gateway usage`."""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict

from wan_t2v_gateway.database import switches
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.usage import usage


def add_queue_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `queue`. A pause holds for all gateways of the database, also after restarts."""
    command.add_argument("action", choices=("show", "pause", "resume"), help="what to do")
    command.add_argument("--reason", default="", help="shown to waiting callers")


def add_usage_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `usage`; without a name it prints all owners."""
    command.add_argument("name", nargs="?", help="the owner's name")


def run_queue(database_url: str, options: argparse.Namespace) -> int:
    """Apply the action and print the queue's state. Returns an exit code."""
    return asyncio.run(_queue(database_url, options))


def run_usage(database_url: str, options: argparse.Namespace) -> int:
    """Print the usage of one owner or of all, one line each. Returns an exit code."""
    return asyncio.run(_usage(database_url, options.name))


async def _queue(database_url: str, options: argparse.Namespace) -> int:
    async with Database(database_url) as database:
        if options.action == "pause":
            await switches.pause(database, options.reason)
        elif options.action == "resume":
            await switches.resume(database)
        print(json.dumps(asdict(await switches.queue_state(database)), default=str))
    return 0


async def _usage(database_url: str, name: str | None) -> int:
    async with Database(database_url) as database:
        lines = await usage(database, name)
    for line in lines:
        print(json.dumps(line))
    if name is not None and not lines:
        print(f"error: there is no owner {name}", file=sys.stderr)
        return 1
    return 0

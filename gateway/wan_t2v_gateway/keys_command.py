"""`wan-t2v-gateway keys`: make, list and withdraw keys."""

import argparse
import asyncio
import json
import sys

from wan_t2v_gateway.database import owners
from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.usage import Allowance


def add_keys_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `keys`; `make NAME` replaces an existing key."""
    command.add_argument("action", choices=("make", "list", "withdraw", "secret"), help="what to do")
    command.add_argument("name", nargs="?", default="", help="the owner's name")
    command.add_argument("--administrator", action="store_true", help="may see all owners' videos and pause the queue")
    command.add_argument("--webhook-url", default="", help="webhook for jobs that name none")
    command.add_argument("--most-queued", type=int, help="jobs that may wait at a time")
    command.add_argument("--most-running", type=int, help="jobs that may run at a time")
    command.add_argument("--most-seconds-a-day", type=float, help="seconds of generation in 24 hours")
    command.add_argument(
        "--class", dest="owner_class", default="standard", help="class of the owner, by which metrics count jobs"
    )


def run_keys(database_url: str, options: argparse.Namespace) -> int:
    """Run `keys`. Returns an exit code."""
    if options.action != "list" and not options.name:
        print("error: the owner's name is missing", file=sys.stderr)
        return 2
    return asyncio.run(_run(database_url, options))


async def _run(database_url: str, options: argparse.Namespace) -> int:
    async with Database(database_url) as database:
        return await _act(database, options)


async def _act(database: Database, options: argparse.Namespace) -> int:
    if options.action == "list":
        for entry in await owners.listing(database):
            print(json.dumps(entry, default=str))
    elif options.action == "secret":
        print(await owners.webhook_secret(database, options.name))
    elif options.action == "withdraw":
        if not await owners.withdraw(database, options.name):
            print(f"error: {options.name} has no key", file=sys.stderr)
            return 1
    else:
        key = await owners.make_key(
            database,
            options.name,
            administrator=options.administrator,
            webhook_url=options.webhook_url,
            owner_class=options.owner_class,
            allowance=Allowance(options.most_queued, options.most_running, options.most_seconds_a_day),
        )
        print(key)
    return 0

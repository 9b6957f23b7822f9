"""`make faults`: kill every Python process of a server in the middle of requests, and worse; print what became of it.

Two servers are harmed: the repository as it is, and a copy with few places, experts that fail on demand and a small
disk for checkpoints. The last line is one JSON object; exit code 1 if a caller was left without an answer, another was
harmed, the server did not serve again, or something was left behind.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedded.options import ServerOptions
from embedded.server import running_server
from tests.faults.faults import (
    EXPECTED,
    HALVES,
    fail_an_expert,
    fail_the_text_encoder,
    fill_the_disk,
    kill,
    kill_the_server,
    lose_a_caller,
    overload,
    read_slowly,
)
from tests.faults.footprint import TRITON
from tests.faults.harmed_repository import TEXT_CACHE_BYTES, MountRefused, harmed_repository, small_disk
from tests.faults.victim import Outcome, Victim

DISK_BYTES = 2**18


def faults_of_processes_and_callers(repository: Path, folder: Path, models: set[str]) -> Iterator[Outcome]:
    """One fault after the other; `models` picks whose processes are killed, all if empty."""
    with running_server(ServerOptions(repository=repository, log=folder / "server.log", start_limit_s=600)) as server:
        victim = Victim(server)
        for model, index in victim.instances(models):
            yield kill(victim, model, index)
        if not models or TRITON in models:
            yield kill_the_server(victim)
        yield lose_a_caller(victim)
        for protocol in ("gRPC", "HTTP"):
            yield read_slowly(victim, protocol)


def faults_of_limits_and_experts(repository: Path, folder: Path, not_tried: list[str]) -> Iterator[Outcome]:
    """The same for what needs a changed repository; what could not be done here is added to `not_tried`."""
    with contextlib.ExitStack() as stack:
        disk = folder / "checkpoints"
        try:
            stack.enter_context(small_disk(disk, DISK_BYTES))
        except MountRefused as error:
            not_tried.append(f"a full disk for checkpoints: {error}")
        harmed = harmed_repository(repository, folder, checkpoints=disk)
        log = folder / "harmed.log"
        options = ServerOptions(repository=harmed.path, log=log, start_limit_s=600, text_cache_bytes=TEXT_CACHE_BYTES)
        victim = Victim(stack.enter_context(running_server(options)))
        yield overload(victim, 50)
        for kind in EXPECTED:
            for expert in HALVES:
                yield fail_an_expert(victim, harmed, kind, expert=expert)
        yield fail_the_text_encoder(victim, harmed)
        if not not_tried:
            yield fill_the_disk(victim, harmed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start servers, harm them, tell. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument(
        "--models", nargs="*", default=[], help="kill only processes of these, or tritonserver (default: of all)"
    )
    options = parser.parse_args(arguments)
    found: list[Outcome] = []
    not_tried: list[str] = []
    with tempfile.TemporaryDirectory(prefix="wan-t2v-faults-") as folder:
        print("| fault | seconds to recover | callers | wrong |\n|---|---|---|---|", flush=True)
        for outcomes in (
            faults_of_processes_and_callers(options.repository, Path(folder), set(options.models)),
            faults_of_limits_and_experts(options.repository, Path(folder), not_tried),
        ):
            for outcome in outcomes:
                found.append(outcome)
                print(_row(outcome), flush=True)
    failed = [outcome.fault for outcome in found if outcome.faults]
    slowest_s = max(outcome.recovered_s for outcome in found)
    told = {"faults": len(found), "slowest_recovery_s": slowest_s, "wrong": failed, "not_tried": not_tried}
    print(json.dumps(told))
    return 1 if failed else 0


def _row(outcome: Outcome) -> str:
    callers = "; ".join(told[:100] for told in outcome.callers)
    wrong = "; ".join(told[:200] for told in outcome.faults) or "nothing"
    return f"| {outcome.fault} | {outcome.recovered_s:.1f} | {callers} | {wrong} |"


if __name__ == "__main__":
    sys.exit(main())

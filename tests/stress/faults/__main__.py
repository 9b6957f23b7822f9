"""`make faults`: inject faults into servers during requests, such as kills of every Python process; print the outcomes.

Faults are injected into servers of the unchanged repository, and of a copy with a short queue, experts that fail on
demand and a small disk for checkpoints. Other servers are stopped, killed or given damaged files while they start. The
last line is one JSON object, also written to the file of `--out`. Exit code 1 means that a caller got no answer, that
another caller was affected, that the server did not recover, or that resources leaked.
"""

import argparse
import contextlib
import itertools
import json
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import provenance
from benchmarks.harness.repository_copy import copy_repository
from embedded.options import ServerOptions
from embedded.server import running_server
from export.atomic import write_atomically
from tests.stress.faults.callers import WAYS, leave
from tests.stress.faults.faults import (
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
from tests.stress.faults.footprint import TRITON
from tests.stress.faults.full_memory import filled_shared_memory
from tests.stress.faults.hangs import HANGING, UNLOADED, hang, unload
from tests.stress.faults.harmed_repository import TEXT_CACHE_BYTES, MountRefused, harmed_repository, small_disk
from tests.stress.faults.kept_steps import kill_after_each_step
from tests.stress.faults.starts import damaged_starts, killed_starts, small_shared_memory, stopped_starts
from tests.stress.faults.victim import LIMIT_S, Outcome, Victim
from tests.stress.signals import end_in_order

DISK_BYTES = 2**18
SMALL_SHARED_MIB = 32


def faults_of_processes_and_callers(repository: Path, folder: Path, models: set[str]) -> Iterator[Outcome]:
    """Inject faults in processes and callers, one after the other. `models` limits whose processes are killed."""
    with running_server(ServerOptions(repository=repository, log=folder / "server.log", start_limit_s=600)) as server:
        victim = Victim(server)
        for model, index in victim.instances(models):
            yield kill(victim, model, index)
        if not models or TRITON in models:
            yield kill_the_server(victim)
        yield lose_a_caller(victim)
        for way in WAYS:
            yield leave(victim, way)
        for protocol in ("gRPC", "HTTP"):
            yield read_slowly(victim, protocol)


def faults_of_what_stops_and_goes(repository: Path, folder: Path) -> Iterator[Outcome]:
    """Inject hangs of processes and unloads of models."""
    with running_server(ServerOptions(repository=repository, log=folder / "hung.log", start_limit_s=600)) as server:
        victim = Victim(server)
        for model in UNLOADED:
            yield unload(victim, model)
        for model, resumed in itertools.product((TRITON, *HANGING), (True, False)):
            yield hang(victim, model, resumed=resumed)


def faults_of_starts(repository: Path, folder: Path, not_tried: list[str]) -> Iterator[Outcome]:
    """Inject faults into servers that are starting, and test one with little shared memory."""
    yield from stopped_starts(repository, folder)
    yield from killed_starts(repository, folder)
    (folder / "damaged").mkdir()
    yield from damaged_starts(copy_repository(repository, folder / "damaged"))
    try:
        yield small_shared_memory(repository, folder, SMALL_SHARED_MIB)
        yield filled_shared_memory(repository, folder)
    except MountRefused as error:
        not_tried.append(f"a small /dev/shm: {error}")


def faults_of_limits_and_experts(repository: Path, folder: Path, not_tried: list[str]) -> Iterator[Outcome]:
    """Inject faults that need a changed repository. Faults that are impossible here are added to `not_tried`."""
    with contextlib.ExitStack() as stack:
        disk, mounted = folder / "checkpoints", True
        try:
            stack.enter_context(small_disk(disk, DISK_BYTES))
        except MountRefused as error:
            mounted = False
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
        if mounted:
            yield fill_the_disk(victim, harmed)
        yield from kill_after_each_step(victim, harmed)


def faults_around_the_gateway(repository: Path, folder: Path, not_tried: list[str]) -> Iterator[Outcome]:
    """Inject faults during gateway jobs. The gateway's packages are imported only here."""
    from tests.stress.faults.gateway.faults import faults_of_the_gateway

    yield from faults_of_the_gateway(repository, folder, not_tried)


KINDS = ("processes", "hangs", "starts", "limits", "gateway")


def main(arguments: Sequence[str] | None = None) -> int:
    """Start servers, inject faults and print the outcomes. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument(
        "--models", nargs="*", default=[], help="kill only processes of these, or tritonserver (default: of all)"
    )
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS, help="only these (default: all)")
    parser.add_argument("--out", type=Path, help="a file for the last line and the table, with machine and commit")
    options = parser.parse_args(arguments)
    machine = provenance()
    found: list[Outcome] = []
    not_tried: list[str] = []
    with tempfile.TemporaryDirectory(prefix="wan-t2v-faults-") as name:
        folder = Path(name)
        print("| fault | seconds to recover | callers | wrong |\n|---|---|---|---|", flush=True)
        done = {
            "processes": lambda: faults_of_processes_and_callers(options.repository, folder, set(options.models)),
            "hangs": lambda: faults_of_what_stops_and_goes(options.repository, folder),
            "starts": lambda: faults_of_starts(options.repository, folder, not_tried),
            "limits": lambda: faults_of_limits_and_experts(options.repository, folder, not_tried),
            "gateway": lambda: faults_around_the_gateway(options.repository, folder, not_tried),
        }
        for kind in options.kinds:
            for outcome in _to_the_end(kind, done[kind]()):
                found.append(outcome)
                print(_row(outcome), flush=True)
    told = {**machine, **_summary(found), "not_tried": not_tried}
    if options.out is not None:
        with write_atomically(options.out) as partial:
            whole = json.dumps({**told, "outcomes": list(map(asdict, found))}, indent=1)
            partial.write_text(_without_folders(whole) + "\n", encoding="utf-8")
    print(json.dumps(told))
    return 1 if told["wrong"] else 0


def _without_folders(text: str) -> str:
    """Remove temporary folders from the text, since results are published and error messages contain such paths."""
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/[\w./-]*", "(its folder)", text)


def _to_the_end(kind: str, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Yield the outcomes. An exception becomes an outcome with a fault, so that the other kinds still run."""
    try:
        yield from outcomes
    except Exception as error:
        traceback.print_exc()
        yield Outcome(f"the kind {kind} broke off", (), LIMIT_S, (f"{type(error).__name__}: {error}",))


def _summary(found: Sequence[Outcome]) -> dict[str, Any]:
    slowest = max(found, key=lambda outcome: outcome.recovered_s)
    wrong = [outcome.fault for outcome in found if outcome.faults]
    slow = {"slowest_recovery_s": slowest.recovered_s, "slowest": slowest.fault}
    return {"faults": len(found), "survived": len(found) - len(wrong), **slow, "wrong": wrong}


def _row(outcome: Outcome) -> str:
    callers = "; ".join(told[:100] for told in outcome.callers)
    wrong = "; ".join(told[:200] for told in outcome.faults) or "nothing"
    return f"| {outcome.fault} | {outcome.recovered_s:.1f} | {callers} | {wrong} |"


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())

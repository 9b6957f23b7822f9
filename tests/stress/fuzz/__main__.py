"""`make fuzz`: send thousands of bad requests over gRPC and HTTP to both endpoints of a server.

Four clients send concurrently, since requests that are harmless alone can crash a server together. Each request must be
refused as the caller's fault, no process may die, and the next valid request must succeed. The same holds for direct
calls of the inner models. Triton's operator endpoints must require the key. A gateway in front of the server must
refuse bad calls itself. Last come malformed HTTP messages, which may crash the server. It must then recover, and the
restarts are counted.

Prints tables, and one JSON line last, also written to the file of `--out`. Exit code 1 means that a requirement failed.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from wan_t2v_client import Connection, TextToVideo

from benchmarks.harness.machine import provenance
from embedded.options import ServerOptions
from embedded.server import Server, running_server
from export.atomic import write_atomically
from tests.server.calls import samples
from tests.stress.fuzz.bad_requests import CLASSES, ONLY_OVER_GRPC
from tests.stress.fuzz.doors import STREAM, UNARY, GrpcDoor, HttpDoor
from tests.stress.fuzz.inner_calls import inner_models_called
from tests.stress.fuzz.operators_endpoints import operators_endpoints_tried
from tests.stress.fuzz.protocol_abuse import ABUSES, abused
from tests.stress.signals import end_in_order
from wan_t2v.operate.processes import stub_pids

CLIENTS = 4


def fuzzed(server: Server, *, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send `count` bad requests. Returns how many of each class were sent, and the faults."""
    doors = {
        "gRPC unary": GrpcDoor(server.grpc_url, UNARY),
        "gRPC stream": GrpcDoor(server.grpc_url, STREAM),
        "HTTP unary": HttpDoor(server.http_url, UNARY),
        "HTTP stream": HttpDoor(server.http_url, STREAM),
    }
    return _unharmed(server, lambda index: _sent(doors, index, seed=seed), count, what="bad requests")


def inner_models_fuzzed(server: Server, *, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send `count` calls of inner models. Returns how many of each class were sent, and the faults."""
    with inner_models_called(server, seed=seed) as (called, left_behind):
        sent, faults = _unharmed(server, called, count, what="calls of inner models")
        return sent, [*faults, *left_behind()]


def _unharmed(
    server: Server, send: Callable[[int], tuple[str, str | None]], count: int, *, what: str
) -> tuple[Counter[str], list[str]]:
    """Send requests by number, four concurrently, and check that the server is unharmed."""
    processes = stub_pids(server.pid)
    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(tqdm(pool.map(send, range(count)), desc=what, unit="request", total=count))
    sent = Counter(name for name, _ in outcomes)
    faults = [fault for _, fault in outcomes if fault]
    if stub_pids(server.pid) != processes:
        faults.append("a process of the server died")
    with TextToVideo(Connection(server.grpc_url)) as client:
        for generate in (client.generate, client.generate_unary):
            if not generate("a red ball", height=32, width=32, num_frames=1, num_inference_steps=1).video:
                faults.append("the next good request got no video")
    return sent, faults


def _sent(doors: Mapping[str, GrpcDoor | HttpDoor], index: int, *, seed: int) -> tuple[str, str | None]:
    """Send request number `index`. Returns its class, and a fault if the refusal is not fair."""
    names = list(CLASSES)
    name = names[index % len(names)]
    door = list(doors)[index // len(names) % len(doors)]
    if name in ONLY_OVER_GRPC:
        door = door.replace("HTTP", "gRPC")
    try:
        refusal = doors[door].send(CLASSES[name](np.random.default_rng((seed, index))))
    except OSError as error:
        return name, f"{name}, {door}, number {index}: the server is gone: {error}"
    unfair = f"{name}, {door}, number {index}: {refusal.code} {refusal.text[:200]}"
    return name, None if refusal.is_fair else unfair


def _requests(server: Server, *, count: int, seed: int, folder: Path) -> dict[str, Any]:
    sent, faults = fuzzed(server, count=count, seed=seed)
    _print_kinds(sent)
    return {"requests": count, "classes": len(sent), "faults": faults}


def _inner_calls(server: Server, *, count: int, seed: int, folder: Path) -> dict[str, Any]:
    sent, faults = inner_models_fuzzed(server, count=count, seed=seed)
    _print_kinds(sent)
    return {"inner_calls": count, "inner_classes": len(sent), "faults": faults}


def _operators_calls(server: Server, *, count: int, seed: int, folder: Path) -> dict[str, Any]:
    tried, open_ones = operators_endpoints_tried(server, np.random.default_rng(seed))
    return {"operators_calls": tried, "faults": open_ones}


def _gateway_calls(server: Server, *, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fuzz the gateway. Its packages are imported only here."""
    from tests.stress.fuzz.gateway.fuzz import gateway_fuzzed

    seen = partial(_requests_seen, server)
    findings = gateway_fuzzed(server.grpc_url, folder, count=count, seed=seed, requests_seen=seen)
    _print_kinds(findings.sent)
    return {**findings.figures(), "faults": findings.faults}


def _requests_seen(server: Server) -> int:
    """Return the number of video requests that both endpoints have ended. Requests for limits are not counted."""
    ended = (value for name, value in samples(server).items() if name.startswith("wan_t2v_generations_ended_total"))
    return int(sum(ended))


def _abuses_of_http(server: Server, *, count: int, seed: int, folder: Path) -> dict[str, Any]:
    aftermaths = list(tqdm(abused(server, ABUSES), desc="abuses of HTTP", total=len(ABUSES)))
    for after in aftermaths:
        again = ", restarted" if after.restarted else ""
        print(f"{after.served_s:5.1f} s until served after {after.name}, answered {after.answer or 'nothing'}{again}")
    return {
        "http_abuses": len(aftermaths),
        "restarts": [after.name for after in aftermaths if after.restarted],
        "slowest_served_s": max(after.served_s for after in aftermaths),
        "faults": [fault for after in aftermaths for fault in after.faults],
    }


def _print_kinds(sent: Counter[str]) -> None:
    for name, times in sent.items():
        print(f"{times:5} {name}")


KINDS = {  # those that can crash the server last
    "requests": _requests,
    "inner": _inner_calls,
    "operators": _operators_calls,
    "gateway": _gateway_calls,
    "http": _abuses_of_http,
}


def tried(server: Server, kinds: Sequence[str], *, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run these kinds. Returns their figures, with all faults under `faults`."""
    figures: dict[str, Any] = {"faults": [], "seed": seed}
    for kind in kinds:
        told = KINDS[kind](server, count=count, seed=seed, folder=folder)
        figures |= told | {"faults": [*figures["faults"], *told["faults"]]}
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a server, run the kinds, and print the result. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--count", type=int, default=2160, help="bad requests, and as many calls of the other kinds")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="only these (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the last line, with machine and commit")
    options = parser.parse_args(arguments)
    machine = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-fuzz-") as folder:
        log = Path(folder) / "server.log"
        with running_server(ServerOptions(repository=options.repository, log=log, start_limit_s=600)) as server:
            result = tried(server, options.kinds, count=options.count, seed=options.seed, folder=Path(folder))
    for fault in result["faults"]:
        print(f"NOT AS IT MUST BE: {fault}", file=sys.stderr)
    told = json.dumps({**machine, **result, "unfair": len(result["faults"])})
    if options.out is not None:
        with write_atomically(options.out) as partial:
            partial.write_text(told + "\n", encoding="utf-8")
    print(told)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())

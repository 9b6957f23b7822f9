"""`make fuzz`: thousands of bad requests over gRPC and HTTP, through both doors, against a server of its own.

Four clients send at once: what one after another does no harm can end a server when two meet in it. Each must be refused as the caller's fault; no process may die, and the next good request must work. Prints a table of
classes and one JSON line last; exit code 1 if anything was unfair.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm
from wan_t2v_client import Connection, TextToVideo

from embedded.options import ServerOptions
from embedded.server import Server, running_server
from tests.fuzz.bad_requests import CLASSES, ONLY_OVER_GRPC
from tests.fuzz.doors import STREAM, UNARY, GrpcDoor, HttpDoor
from wan_t2v.operate.processes import stub_pids

CLIENTS = 4


def fuzzed(server: Server, *, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send `count` bad requests. Returns how many of each class were sent, and what was not as it must be."""
    doors = {
        "gRPC unary": GrpcDoor(server.grpc_url, UNARY),
        "gRPC stream": GrpcDoor(server.grpc_url, STREAM),
        "HTTP unary": HttpDoor(server.http_url, UNARY),
        "HTTP stream": HttpDoor(server.http_url, STREAM),
    }
    processes = stub_pids(server.pid)
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = pool.map(lambda index: _sent(doors, index, seed=seed), range(count))
        outcomes = list(tqdm(found, desc="bad requests", unit="request", total=count))
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
    """Send the request of this number. Returns its class, and what was unfair about its end."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a server, send, tell. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--count", type=int, default=2160)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wan-t2v-fuzz-") as folder:
        log = Path(folder) / "server.log"
        with running_server(ServerOptions(repository=options.repository, log=log)) as server:
            sent, faults = fuzzed(server, count=options.count, seed=options.seed)
    for name, times in sent.items():
        print(f"{times:5} {name}")
    for fault in faults:
        print(f"NOT REFUSED RIGHTLY: {fault}", file=sys.stderr)
    print(json.dumps({"requests": options.count, "classes": len(sent), "unfair": len(faults), "seed": options.seed}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

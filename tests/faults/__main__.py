"""`make faults`: kill every Python process of a server in the middle of requests, and worse; print what became of it.

The last line is one JSON object; exit code 1 if a caller was left without an answer, the server did not serve again,
or something was left behind.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedded.options import ServerOptions
from embedded.server import running_server
from tests.faults.faults import Outcome, Victim


def outcomes(victim: Victim, models: set[str]) -> Iterator[Outcome]:
    """One fault after the other; `models` picks whose processes are killed, all if empty."""
    for model, index in victim.instances(models):
        yield victim.kill(model, index)
    yield victim.lose_a_caller()
    yield victim.overload(50)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a server, harm it, tell. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--models", nargs="*", default=[], help="kill only processes of these (default: of all)")
    options = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory(prefix="wan-t2v-faults-") as folder:
        server_options = ServerOptions(
            repository=options.repository, log=Path(folder) / "server.log", start_limit_s=600
        )
        with running_server(server_options) as server:
            print("| fault | seconds to recover | callers | wrong |\n|---|---|---|---|", flush=True)
            for outcome in outcomes(Victim(server), set(options.models)):
                found.append(outcome)
                callers = "; ".join(told[:90] for told in outcome.callers)
                wrong = "; ".join(told[:200] for told in outcome.faults) or "nothing"
                print(f"| {outcome.fault} | {outcome.recovered_s:.1f} | {callers} | {wrong} |", flush=True)
    failed = [outcome.fault for outcome in found if outcome.faults]
    slowest_s = max(outcome.recovered_s for outcome in found)
    print(json.dumps({"faults": len(found), "slowest_recovery_s": slowest_s, "wrong": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

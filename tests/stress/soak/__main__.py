"""`make soak`: put mixed load on a server for minutes, with cancelled requests, deadlines, bad requests and bursts.

Memory, open files, processes and shared memory must stay flat. Each request must get one answer, with the same bytes as
on the idle server. Writes a JSON file and a plot. The last line is one JSON object. Exit code 1 means a fault.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.machine import provenance
from embedded.errors import ServerError
from embedded.options import ServerOptions
from embedded.server import running_server
from embedded.supervision.supervisor import died_log
from export.atomic import write_atomically
from tests.stress.signals import end_in_order
from tests.stress.soak.plot import plotted
from tests.stress.soak.soak import soaked


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a server, put load on it, and write the result. Returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/soak.json"), help="and a .png beside it")
    options = parser.parse_args(arguments)
    machine = provenance()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-soak-") as folder:
        log = Path(folder) / "server.log"
        try:
            with running_server(ServerOptions(repository=options.repository, log=log, start_limit_s=600)) as server:
                soak = soaked(server, minutes=options.minutes, seed=options.seed, tell=_tell)
        except ServerError as error:
            kept = options.out.with_suffix(".log")
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(died_log(log) if died_log(log).exists() else log, kept)
            print(f"error: {error}\nThe server's log: {kept}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    result = {**machine, **soak.result()}
    with write_atomically(options.out) as partial:
        partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
    plotted(result, options.out.with_suffix(".png"))
    for one in soak.judged():
        _tell(f"{one.name}: {one.second_quarter:g} to {one.last_quarter:g}, {'' if one.is_flat else 'NOT '}flat")
    for fault in result["first_faults"]:
        _tell(fault)
    last = ("machine", "commit", "minutes", "seed", "requests", "ended", "faults")
    print(json.dumps({name: result[name] for name in last}))
    return 1 if result["faults"] else 0


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())

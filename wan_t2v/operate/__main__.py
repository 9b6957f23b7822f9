"""`python -m wan_t2v.operate`: drain a server before it is stopped, and answer the probes of Kubernetes.

Runs beside the server, on its machine or in its container, as its user.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wan_t2v.operate.drain import drain
from wan_t2v.operate.load import load_of
from wan_t2v.operate.own_server import AddressError, http_address
from wan_t2v.operate.probe import Probe, ProbeFailed
from wan_t2v.operate.run_directory import VARIABLE, RunDirectory, RunDirectoryError, chosen_path

MOST_S = 1_000_000  # 11 days; the kernel's poll, with which a socket waits, can take 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns an exit code: 0 for yes or done, 1 for no, a timeout, or no server here."""
    options = _parser().parse_args(arguments)
    run = RunDirectory(options.run_directory)
    try:
        if not run.path.is_dir():
            raise RunDirectoryError(
                f"there is no run directory {run.path}: name the server's with --run-directory or {VARIABLE}"
            )
        return _run(options, run)
    except (ProbeFailed, RunDirectoryError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"run directory {run.path} cannot be used ({error.strerror}): run this as the server's user"
    print(f"error: {reason}", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace, run: RunDirectory) -> int:
    if options.command == "drain":
        if drain(run, wait_s=options.wait_s, tell=_tell):
            _tell("empty: the server can be stopped")
            return 0
        _tell(f"not empty after {options.wait_s:g} s; draining stays on")
        return 1
    if options.command == "undrain":
        run.undrain()
        _tell("new work is taken again")
    elif options.command == "status":
        _tell(json.dumps(asdict(load_of(run))))
    else:
        probe = Probe(options.url, run, options.timeout_s)
        (probe.check_ready if options.what == "ready" else probe.check_live)()
        _tell(options.what)
    return 0


def _parser() -> argparse.ArgumentParser:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--run-directory",
        type=Path,
        default=chosen_path(),
        help=f"the server's run directory (default: environment variable {VARIABLE}, now %(default)s)",
    )
    parser = argparse.ArgumentParser(
        prog="python -m wan_t2v.operate", description=(__doc__ or "").partition(":")[2].partition("\n")[0].strip()
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drain = commands.add_parser("drain", parents=[where], help="take no new work, and wait until the server is empty")
    drain.add_argument("--wait-s", type=_seconds, default=0.0, help="longest wait in seconds (default: %(default)g)")
    commands.add_parser("undrain", parents=[where], help="take new work again")
    commands.add_parser("status", parents=[where], help="print the server's load as JSON")
    probe = commands.add_parser("probe", parents=[where], help="exit code 0 if the server is ready, or alive")
    probe.add_argument("what", choices=("ready", "live"))
    probe.add_argument(
        "--url",
        type=_address,
        default="http://127.0.0.1:8000",
        help="Triton's HTTP address; no proxy is used (default: %(default)s)",
    )
    probe.add_argument(
        "--timeout-s", type=_seconds, default=4.0, help="limit of the whole probe (default: %(default)g)"
    )
    return parser


def _address(text: str) -> str:
    try:
        return http_address(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    """Parse a time in seconds; neither nan nor inf is one."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= MOST_S:
            return float(text)
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: a number of seconds from 0 to {MOST_S}")


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

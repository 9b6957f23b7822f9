"""Measure one GPU with A14B's shapes, without its weights: one command, under 9 minutes, results as JSON.

    make gpu        or        python -m benchmarks.gpu.run --out benchmarks/results/gpu.json
    python -m benchmarks.gpu.run --rehearse --out build/gpu.json        the same on a CPU at small dimensions

Each part is its own process with a time limit, so a part that fails or hangs does not affect the others. The file is
written after each part. A stopped part keeps the rows that it had finished. Parts already in the file, from an earlier
run on the same GPU, are kept. `of_matrix_rate` is a row's FLOP rate as a share of the best BF16 matrix product on this
GPU; 1 is the practical maximum.
"""

import argparse
import contextlib
import datetime
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import table, with_rates
from benchmarks.gpu.timing import Row
from embedded.process.stop_signals import interrupted_by_signals

LIMIT_S = 530.0  # for all parts together
STOP_S = 15.0  # between SIGTERM and SIGKILL of a part
USER = 1000
NO_FIGURES = ("process", "log")  # rows of the server part without measurements: its environment and its log
WITH_SERVER = ("server", "whole")
LOG_LINES = 40
REHEARSAL_PATIENCE = 5


@dataclass(frozen=True)
class Part:
    """One kind of measurement: a `module:function` that yields rows, and its time limit.

    `unprivileged`: if this process is root, the part runs as an unprivileged user, as the server's pod does.
    `by_name`: the part runs only if `--parts` names it, since it takes longer than all others may.
    """

    name: str
    source: str
    limit_s: float
    unprivileged: bool = False
    by_name: bool = False

    def rows(self) -> Callable[..., Iterator[Row]]:
        """Import and return the function."""
        module, function = self.source.split(":")
        function_of_rows: Callable[..., Iterator[Row]] = getattr(importlib.import_module(module), function)
        return function_of_rows


PARTS = (  # most important first, since time may run out
    Part("server", "benchmarks.gpu.server_part:server", 270, unprivileged=True),
    Part("matrix_rate", "benchmarks.gpu.torch_parts:matrix_rate", 30),
    Part("attention", "benchmarks.gpu.torch_parts:attention", 60),
    Part("expert_eager", "benchmarks.gpu.torch_parts:expert_eager", 90),
    Part("fp8", "benchmarks.gpu.fp8_part:fp8", 60),
    Part("vae", "benchmarks.gpu.vae_part:vae", 150),
    Part("tensorrt", "benchmarks.gpu.tensorrt_part:tensorrt", 240),
    Part("expert_compiled", "benchmarks.gpu.torch_parts:expert_compiled", 120),
    Part("whole", "benchmarks.gpu.whole_part:whole", 1200, by_name=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the results. Without a GPU it prints that it skipped and returns 0. Returns an exit code."""
    options = _parser().parse_args(arguments)
    if options.part:
        return _measure_one(options)
    reason = None if options.rehearse else missing()
    if reason:
        print(json.dumps({"skipped": reason}))
        return 0
    about = _about(rehearse=options.rehearse)
    out = options.out or Path(f"benchmarks/results/gpu-{about['gpu'].replace(' ', '-')}-{about['date']}.json")
    wanted = wanted_parts(options.parts)
    if options.rehearse:  # a rehearsal runs on shared cores and is not in a hurry
        wanted = [replace(part, limit_s=REHEARSAL_PATIENCE * part.limit_s) for part in wanted]
    extra = [*["--rehearse"] * options.rehearse, "--repository", str(options.repository)]
    extra += ["--keep", str(options.keep)] if options.keep else []
    extra += ["--whole", str(options.whole)]
    with interrupted_by_signals():  # so that the part that runs ends too
        parts = measure_parts(wanted, out, about, limit_s=options.limit, extra=extra)
    print(table(parts), file=sys.stderr)
    print(json.dumps({"out": str(out), **{name: part["status"] for name, part in parts.items()}}))
    return 1 if any(part["status"] == "failed" for part in parts.values()) else 0


def wanted_parts(names: Sequence[str] | None) -> list[Part]:
    """Return the parts of these names, without names all but those that must be named. The order is that of PARTS."""
    return [part for part in PARTS if (part.name in names if names else not part.by_name)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.run", description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, help="file to write (default: benchmarks/results/gpu-<GPU>-<date>.json)")
    parser.add_argument("--parts", nargs="+", choices=names, help="only these (default: all but whole)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for everything (default: %(default)s)")
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), help="model repository of the server's part"
    )
    parser.add_argument("--keep", type=Path, help="folder for the server's logs and videos (default: not kept)")
    parser.add_argument(
        "--whole", type=Path, default=Path("build/gpu-whole"), help="folder for 45 GB of random weights"
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="test the parts on the CPU at small dimensions; the figures mean nothing",
    )
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)  # starts the process of one part
    return parser


def missing() -> str | None:
    """Return the reason why nothing can be measured here, or None."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install torch"
    import torch

    return None if torch.cuda.is_available() else "no GPU: torch.cuda.is_available() is False; --rehearse needs none"


def measure_parts(
    parts: Sequence[Part], out: Path, about: dict[str, Any], *, limit_s: float, extra: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Run each part in its own process and write `out` after each. Returns these and the file's earlier parts."""
    end = time.monotonic() + limit_s
    results = earlier_parts(out, about)
    for part in parts:
        limit = min(part.limit_s, end - time.monotonic())
        command = [sys.executable, "-m", "benchmarks.gpu.run", "--part", part.name, *extra]
        results[part.name] = part_in_process(command, limit, user=unprivileged_user() if part.unprivileged else None)
        print(f"{part.name}: {results[part.name]['status']} in {results[part.name]['seconds']} s", file=sys.stderr)
        _write(out, {**about, "parts": with_rates(results)})
    return results


def earlier_parts(out: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parts in a results file that was written on the same GPU. Empty for any other file."""
    try:
        earlier = json.loads(out.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    parts: dict[str, dict[str, Any]] = earlier.get("parts", {})
    return parts if all(earlier.get(key) == about.get(key) for key in ("gpu", "rehearsal")) else {}


def unprivileged_user() -> int | None:
    """Return the user id of the server in a pod, if this process is root and that user can read its packages."""
    if os.geteuid() != 0:
        return None
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import torch, benchmarks.gpu.run"],
            **_as_user(USER),
            capture_output=True,
            timeout=120,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return USER if tried.returncode == 0 else None


def _as_user(user: int | None) -> dict[str, Any]:
    """Return Popen's arguments to run as that user. None keeps this process's user."""
    if user is None:
        return {}
    return {"user": user, "group": user, "extra_groups": [], "env": {**os.environ, "HOME": tempfile.gettempdir()}}


def part_in_process(command: Sequence[str], limit_s: float, *, user: int | None = None) -> dict[str, Any]:
    """Run `command --out FILE`, which writes one JSON row per line.

    Returns its status, reason, seconds and rows, and `log`, the last lines of its output, if not all was measured.
    """
    if limit_s <= 0:
        return {"status": "stopped", "reason": "no time was left", "seconds": 0.0, "rows": []}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wan-t2v-gpu-") as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        if user is not None:
            os.chown(folder, user, user)
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [*command, "--out", str(rows)], stdout=errors, stderr=errors, start_new_session=True, **_as_user(user)
            )
            try:
                status = "" if process.wait(limit_s) == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "stopped"
            finally:
                _end(process)
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    measured = [json.loads(line) for line in lines]
    reason = {"stopped": f"after its limit of {limit_s:.0f} s", "failed": (said or [""])[-1]}.get(status, "")
    status, seconds = status or status_of(measured), round(time.monotonic() - started, 1)
    more = {} if status == "measured" else {"log": said[-LOG_LINES:]}
    return {"status": status, "reason": reason, "seconds": seconds, "rows": measured, **more}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a part, so that its server can stop and free the GPU's memory. Kill it if it does not end."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def status_of(rows: Sequence[Row]) -> str:
    """Return the status of a finished part: `measured`, `partly`, or, without any figure, `failed` or `skipped`."""
    rows = [row for row in rows if row.get("what") not in NO_FIGURES]
    without = [row for row in rows if "error" in row or "skipped" in row]
    if len(without) < len(rows):
        return "partly" if without else "measured"
    return "skipped" if rows and all("skipped" in row for row in rows) else "failed"


def _measure_one(options: argparse.Namespace) -> int:
    """Measure one part in this process. Rows are written as they come."""
    from benchmarks.gpu.scale import full_scale, rehearsal_scale

    part = next(part for part in PARTS if part.name == options.part)
    scale = rehearsal_scale() if options.rehearse else full_scale()
    chosen = {"repository": options.repository, "keep": options.keep} if part.name in WITH_SERVER else {}
    chosen |= {"folder": options.whole} if part.name == "whole" else {}
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(1))  # runs the clean-up of a running server
    with options.out.open("w", encoding="utf-8") as file:
        for row in part.rows()(scale, **chosen):
            file.write(json.dumps(row) + "\n")
            file.flush()
    return 0


def _about(*, rehearse: bool) -> dict[str, Any]:
    from benchmarks.harness.machine import provenance

    gpu: dict[str, Any] = {"gpu": "none, a rehearsal on the CPU: these are no figures"}
    import torch

    if not rehearse:
        device = torch.cuda.get_device_properties(0)
        gpu = {"gpu": device.name, "gpu_memory_gib": round(device.total_memory / 2**30, 1), "cuda": torch.version.cuda}
        gpu["driver"] = _driver()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**gpu, "date": date, "rehearsal": rehearse, "torch": torch.__version__, **provenance()}


def _driver() -> str:
    """Return the driver's version from nvidia-smi, or an empty string if that fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())

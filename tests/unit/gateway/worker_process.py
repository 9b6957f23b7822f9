"""A gateway as a process of its own, which a test may kill: `python -m tests.unit.gateway.worker_process SETTINGS`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def worker_process(**settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Started, and at work by the time it stands in `procrastinate_workers`; killed at the end."""
    command = [sys.executable, "-m", "tests.unit.gateway.worker_process", json.dumps(settings, default=str)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    import uvicorn
    from wan_t2v_gateway.app import gateway_app
    from wan_t2v_gateway.settings import Settings

    settings = json.loads(sys.argv[1])
    app = gateway_app(Settings(**{**settings, "data": Path(settings["data"])}), open_access=True)
    uvicorn.run(app, host="127.0.0.1", port=0, log_level="error")


if __name__ == "__main__":
    main()

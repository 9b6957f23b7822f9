"""A real Postgres for the whole run, a database and a gateway for each test, a scripted server behind it."""

import asyncio
import importlib.util
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

INSTALLED = importlib.util.find_spec("procrastinate") is not None and importlib.util.find_spec("openai") is not None
collect_ignore_glob = [] if INSTALLED else ["test_*.py", "*/test_*.py"]  # `make test` installs what they need


PATIENT_S = 60.0


@contextmanager
def postgres_in_memory() -> Iterator[tuple[str, Path]]:
    """Its URL, and its folder."""
    from wan_t2v_gateway.database.local_postgres import local_postgres

    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o755)  # as root, Postgres runs as nobody
    try:
        with local_postgres(folder, durable=False) as url:
            yield url, folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_in_memory() as (url, _):
        yield url


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield f"{postgres.rpartition('/')[0]}/{name}"
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def limits_url() -> Iterator[str]:
    """A server that publishes its limits and makes no video."""
    from tests.fakes.scripted_server import serving

    with serving(()) as server:
        server.ready = False
        yield server.url


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gateways wait longer than for callers' sake: on a busy machine an answer must not depend on that."""
    from wan_t2v_gateway import server_limits
    from wan_t2v_gateway.database import call_limit, pool
    from wan_t2v_gateway.storage import store

    monkeypatch.setattr(call_limit, "CALL_LIMIT_S", PATIENT_S)
    monkeypatch.setattr(pool, "_CONNECTION_LIMIT_S", PATIENT_S)
    monkeypatch.setattr(server_limits, "ANSWER_LIMIT_S", PATIENT_S)
    monkeypatch.setattr(store, "_ANSWER_LIMIT_S", PATIENT_S)
    monkeypatch.setattr(store, "_PART_LIMIT_S", PATIENT_S)


@pytest.fixture
def start(database_url: str, limits_url: str, tmp_path: Path, patience: None) -> Iterator[Callable[..., Any]]:
    """Start a gateway; several may share the database."""
    from tests.unit.gateway.running import running_gateway

    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            running_gateway(**{"database_url": database_url, "data": tmp_path, "server_url": limits_url, **settings})
        )


@pytest.fixture
def owner(database_url: str) -> Callable[..., dict[str, str]]:
    """Make a key; returns the header to call with."""

    def make(name: str, administrator: bool = False, **limits: Any) -> dict[str, str]:
        from wan_t2v_gateway.database.owners import OwnerOptions, make_key
        from wan_t2v_gateway.database.pool import Database

        async def key() -> str:
            async with Database(database_url) as database:
                return await make_key(database, name, OwnerOptions(administrator=administrator, **limits))

        return {"authorization": f"Bearer {asyncio.run(key())}"}

    return make

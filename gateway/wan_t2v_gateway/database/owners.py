"""Owners and their keys. A key is random, so its plain SHA-256 is enough; the key itself is kept nowhere."""

import base64
import hashlib
import secrets
from dataclasses import dataclass

from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.usage import Allowance

LOCAL = "local"  # whose jobs are those of a gateway without keys


@dataclass(frozen=True)
class Owner:
    """Who calls, and what they may."""

    name: str
    administrator: bool = False
    webhook_url: str = ""
    allowance: Allowance = Allowance()

    @property
    def sees(self) -> str | None:
        """Whose videos: their own, or everybody's (None)."""
        return None if self.administrator else self.name


def hashed(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


async def by_key(database: Database, key: str) -> Owner | None:
    """The owner of a key that was not withdrawn."""
    row = await database.row(
        "SELECT name, administrator, webhook_url, most_queued, most_running, most_seconds_a_day FROM owners "
        "WHERE key_hash = %s AND withdrawn_at IS NULL",
        [hashed(key)],
    )
    if row is None:
        return None
    allowance = Allowance(row["most_queued"], row["most_running"], row["most_seconds_a_day"])
    return Owner(row["name"], row["administrator"], row["webhook_url"], allowance)


async def any_key(database: Database) -> bool:
    """Whether a key was ever made."""
    row = await database.row("SELECT EXISTS (SELECT FROM owners WHERE key_hash IS NOT NULL) AS there")
    return bool(row and row["there"])


async def ensure_local(database: Database) -> None:
    """The owner of a gateway without keys."""
    await database.rows(
        "INSERT INTO owners (name, webhook_secret, class) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [LOCAL, _new_secret(), LOCAL],
    )


async def make_key(
    database: Database,
    name: str,
    *,
    administrator: bool = False,
    webhook_url: str = "",
    owner_class: str = "standard",
    allowance: Allowance | None = None,
) -> str:
    """Make an owner's key, or a new one in the place of the old; returns it, the only time that it is to be seen."""
    key = f"wan_{secrets.token_urlsafe(32)}"
    most = allowance or Allowance()
    await database.rows(
        "INSERT INTO owners (name, key_hash, administrator, webhook_url, webhook_secret, class, most_queued, "
        "most_running, most_seconds_a_day) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE "
        "SET key_hash = excluded.key_hash, administrator = excluded.administrator, class = excluded.class, "
        "webhook_url = excluded.webhook_url, most_queued = excluded.most_queued, most_running = excluded.most_running, "
        "most_seconds_a_day = excluded.most_seconds_a_day, withdrawn_at = NULL",
        [
            *(name, hashed(key), administrator, webhook_url, _new_secret(), owner_class),
            *(most.most_queued, most.most_running, most.most_seconds_a_day),
        ],
    )
    return key


async def withdraw(database: Database, name: str) -> bool:
    """Make an owner's key worthless. False if there is none."""
    row = await database.row(
        "UPDATE owners SET withdrawn_at = now() WHERE name = %s AND key_hash IS NOT NULL AND withdrawn_at IS NULL "
        "RETURNING name",
        [name],
    )
    return row is not None


async def webhook_secret(database: Database, name: str) -> str:
    """What an owner's webhooks are signed with, as `standardwebhooks` takes it."""
    row = await database.row("SELECT webhook_secret FROM owners WHERE name = %s", [name])
    if row is None:
        raise LookupError(f"owner {name} has no secret")
    return str(row["webhook_secret"])


async def listing(database: Database) -> list[dict[str, object]]:
    """Every owner with a key, without the key."""
    return list(
        await database.rows(
            "SELECT name, administrator, webhook_url, class, most_queued, most_running, most_seconds_a_day, "
            "created_at, withdrawn_at FROM owners WHERE key_hash IS NOT NULL ORDER BY name"
        )
    )


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()

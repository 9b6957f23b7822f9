"""Owners and their keys. A key is random, so a plain SHA-256 is enough; the key itself is not stored."""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, LiteralString, TypedDict

from wan_t2v_gateway.database.pool import Database
from wan_t2v_gateway.database.usage import Allowance

LOCAL = "local"  # owner of all jobs of a gateway without keys
# An owner's options, by their columns. For a limit, None stands for no limit.
OwnerOptions = TypedDict(
    "OwnerOptions",
    {
        "administrator": bool,
        "webhook_url": str,
        "class": str,
        "most_queued": int | None,
        "most_running": int | None,
        "most_seconds_a_day": float | None,
    },
    total=False,
)
_NEW_OWNER: OwnerOptions = {
    "administrator": False,
    "webhook_url": "",
    "class": "standard",
    "most_queued": None,
    "most_running": None,
    "most_seconds_a_day": None,
}
OPTIONS = tuple(_NEW_OWNER)
_MAKE: LiteralString = (  # a row without a key is that of a gateway without keys, whose options nobody chose
    f"INSERT INTO owners (name, key_hash, webhook_secret, {', '.join(_NEW_OWNER)}) VALUES "  # noqa: S608
    f"(%(name)s, %(key_hash)s, %(secret)s, {', '.join(f'%({column})s' for column in _NEW_OWNER)}) "
    "ON CONFLICT (name) DO UPDATE SET key_hash = excluded.key_hash, withdrawn_at = NULL, "
    + ", ".join(
        f"{column} = CASE WHEN '{column}' = ANY(%(given)s::text[]) OR owners.key_hash IS NULL "
        f"THEN excluded.{column} ELSE owners.{column} END"
        for column in _NEW_OWNER
    )
)


@dataclass(frozen=True)
class Owner:
    """A caller and its permissions."""

    name: str
    administrator: bool = False
    webhook_url: str = ""
    allowance: Allowance = Allowance()

    @property
    def sees(self) -> str | None:
        """Owner whose videos the caller may see: itself, or None for all owners."""
        return None if self.administrator else self.name


def hashed(key: str) -> str:
    """Hash a key for storage."""
    return hashlib.sha256(key.encode()).hexdigest()


async def by_key(database: Database, key: str) -> Owner | None:
    """Find the owner of a key; None if it is unknown or withdrawn."""
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
    """Create the owner of a gateway without keys, unless it exists."""
    await database.rows(
        "INSERT INTO owners (name, webhook_secret, class) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [LOCAL, _new_secret(), LOCAL],
    )


async def has_key(database: Database, name: str) -> bool:
    """Whether a key of this owner was ever made."""
    row = await database.row("SELECT name FROM owners WHERE name = %s AND key_hash IS NOT NULL", [name])
    return row is not None


async def make_key(database: Database, name: str, options: OwnerOptions | None = None) -> str:
    """Make an owner's key, which replaces an older one; options that are not given keep the owner's values.

    Returns the key, which cannot be read again.
    """
    key, given = f"wan_{secrets.token_urlsafe(32)}", options or OwnerOptions()
    values = {**_NEW_OWNER, **given, "name": name, "key_hash": hashed(key), "secret": _new_secret()}
    arguments: Any = {**values, "given": list(given)}
    await database.rows(_MAKE, arguments)
    return key


async def withdraw(database: Database, name: str) -> bool:
    """Withdraw an owner's key. Returns False if there is none."""
    row = await database.row(
        "UPDATE owners SET withdrawn_at = now() WHERE name = %s AND key_hash IS NOT NULL AND withdrawn_at IS NULL "
        "RETURNING name",
        [name],
    )
    return row is not None


async def webhook_secret(database: Database, name: str) -> str:
    """Return the secret that signs an owner's webhooks, in the format of `standardwebhooks`. Raises LookupError."""
    row = await database.row("SELECT webhook_secret FROM owners WHERE name = %s", [name])
    if row is None:
        raise LookupError(f"owner {name} has no secret")
    return str(row["webhook_secret"])


async def list_owners(database: Database) -> list[dict[str, object]]:
    """List every owner with a key, without the key."""
    return list(
        await database.rows(
            "SELECT name, administrator, webhook_url, class, most_queued, most_running, most_seconds_a_day, "
            "created_at, withdrawn_at FROM owners WHERE key_hash IS NOT NULL ORDER BY name"
        )
    )


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()

"""Keyspaces and roles of a cluster: what has to be there before anything is stored.

Everything can be done again: what is there already is left, and what is there but different is an
error, since data would have to move first.
"""

import secrets
from collections.abc import Mapping, Sequence

from ndcass.errors import Conflict
from ndcass.store.cassandra.driver import Driver

DEFAULT_ROLE = "cassandra"
"""The superuser that Cassandra makes; everybody knows its password, which is its name."""

_AUTH_KEYSPACE = "system_auth"
_STRATEGY = "NetworkTopologyStrategy"


async def create_keyspace(driver: Driver, name: str, replicas: Mapping[str, int]) -> bool:
    """Make a keyspace with so many replicas in each data centre; whether it was not there before.

    Raises
    ------
    Conflict
        If it is there with other replicas. To change that is not enough: until a full repair has
        spread the data, replicas that have nothing would answer for those that have.
    """
    there = await _replicas(driver, name)
    if there is None:
        await driver.run(
            f"CREATE KEYSPACE IF NOT EXISTS {name} WITH replication = {_replication(replicas)}"
        )
        return True
    if there != replicas:
        raise Conflict(
            f"keyspace {name} has the replicas {_said(there)}, where {_said(replicas)} are "
            "described: alter it by hand and run a full repair, or describe it as it is"
        )
    return False


async def replicate_roles(driver: Driver, nodes: Mapping[str, int]) -> None:
    """Keep roles on up to three nodes of each data centre, of so many, instead of one in all.

    For a cluster that has nothing but the default role yet: others would have to be repaired.
    """
    replicas = {data_centre: min(3, count) for data_centre, count in nodes.items()}
    if await _replicas(driver, _AUTH_KEYSPACE) != replicas:
        await driver.run(
            f"ALTER KEYSPACE {_AUTH_KEYSPACE} WITH replication = {_replication(replicas)}"
        )


async def create_superuser(driver: Driver, name: str, password: str) -> None:
    """Make a role that may do everything, or give it this password."""
    options = "WITH PASSWORD = %s AND LOGIN = true AND SUPERUSER = true"
    await driver.run(f"CREATE ROLE IF NOT EXISTS {name} {options}", [password])
    await driver.run(f"ALTER ROLE {name} {options}", [password])


async def disable_default_role(driver: Driver) -> bool:
    """Take the role that everybody knows out of use; whether it was in use."""
    rows = await driver.run(
        "SELECT can_login, is_superuser FROM system_auth.roles WHERE role = %s", [DEFAULT_ROLE]
    )
    if not any(any(row) for row in rows):
        return False
    await driver.run(
        f"ALTER ROLE {DEFAULT_ROLE} WITH PASSWORD = %s AND LOGIN = false AND SUPERUSER = false",
        [secrets.token_urlsafe(32)],
    )
    return True


async def _replicas(driver: Driver, keyspace: str) -> dict[str, int] | None:
    """Replicas of a keyspace by data centre; None if there is none of that name."""
    rows: Sequence[tuple[dict[str, str]]] = await driver.run(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", [keyspace]
    )
    if not rows:
        return None
    options = {name: value for name, value in rows[0][0].items() if name != "class"}
    return {name: int(value) for name, value in options.items()}


def _replication(replicas: Mapping[str, int]) -> str:
    centres = "".join(f", '{name}': {count}" for name, count in replicas.items())
    return f"{{'class': '{_STRATEGY}'{centres}}}"


def _said(replicas: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(replicas.items()))

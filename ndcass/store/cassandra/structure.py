"""The structure of a keyspace as statements that make it again."""

from collections.abc import Sequence
from dataclasses import dataclass

from ndcass.store.cassandra.driver import Driver

KEYSPACE, TABLE = "keyspace", "table"


@dataclass(frozen=True, slots=True)
class Element:
    """A keyspace, type, table, index, ... and the statement that makes it."""

    kind: str
    name: str
    statement: str


async def structure_of(driver: Driver, keyspace: str) -> list[Element]:
    """What a keyspace consists of, in an order in which it can be made; empty if there is none."""
    if not await driver.run(
        "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s", [keyspace]
    ):
        return []
    found = await driver.run(f"DESCRIBE KEYSPACE {keyspace}")
    return [Element(str(kind), str(name), str(made)) for _, kind, name, made in found]


async def make(driver: Driver, elements: Sequence[Element]) -> None:
    """Make what is not there."""
    for element in elements:
        await driver.run(element.statement)


async def is_empty(driver: Driver, keyspace: str, table: str) -> bool:
    """Whether a table holds no rows."""
    return not await driver.run(f"SELECT * FROM {keyspace}.{table} LIMIT 1")


async def empty(driver: Driver, keyspace: str, table: str) -> None:
    """Take all rows of a table away; all nodes have to be there."""
    await driver.run(f"TRUNCATE {keyspace}.{table}")

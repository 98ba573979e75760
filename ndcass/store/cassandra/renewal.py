"""Catalogues after a restore: what they say now must not be taken for what they said before.

A restored catalogue is older than the gateways' caches and perhaps than the cuboids of another
keyspace. Two things count upwards in it, and both have been higher: its version, by which gateways
know whether their caches hold, and the last id of a channel, which no other channel may ever get,
since its voxels would be there already.
"""

import time
from collections import defaultdict

from ndcass.store.cassandra.driver import Consistency, Driver
from ndcass.store.cassandra.partition import Change, Partition
from ndcass.store.cassandra.tables import Tables

# Our tables, and columns that tell them from others of such a name.
CUBOIDS, CATALOG = "cuboids", "catalog"
_OURS = {
    CUBOIDS: frozenset({"channel", "pyramid", "level", "t", "bucket", "write_id", "payload"}),
    CATALOG: frozenset({"scope", "kind", "name", "part", "version", "last_channel_id"}),
}
# Keys alone, some 60 bytes each.
PAGE_ROWS = 5000

_COLUMNS = (
    "SELECT keyspace_name, column_name FROM system_schema.columns"
    " WHERE table_name = %s ALLOW FILTERING"
)
_REPLICATION = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s"
# A walk over all partitions: `occupancy_roots` is as old as the catalogue, and would not do.
_BUCKETS = "SELECT DISTINCT channel, pyramid, level, t, bucket FROM cuboids"


async def renew_catalogues(driver: Driver) -> dict[str, int]:
    """Raise the version and the last id of a channel of every catalogue of a cluster.

    No gateway may run, since a cuboid that is written meanwhile may not be seen.

    Returns
    -------
    dict
        By keyspace, the id above which new channels get theirs.
    """
    highest = 0
    for keyspace in await _keyspaces_with(driver, CUBOIDS):
        highest = max(highest, await _highest_channel_id(driver, keyspace))
    last_ids = {}
    for keyspace in await _keyspaces_with(driver, CATALOG):
        tables = Tables(driver, keyspace=keyspace, data_centre=await _centre(driver, keyspace))
        last_ids[keyspace] = await _renew(Partition(tables), highest)
    return last_ids


async def _renew(partition: Partition, highest: int) -> int:
    # Milliseconds: a catalogue does not change as often, so no version of before is met again, nor
    # one of after an earlier restore of the same backup.
    skipped = time.time_ns() // 1_000_000

    async def renew(change: Change) -> int:
        change.skip_versions(skipped)
        change.skip_channel_ids(highest)
        return change.last_channel_id

    return await partition.change(renew)


async def _highest_channel_id(driver: Driver, keyspace: str) -> int:
    centre = await _centre(driver, keyspace)
    statement = await driver.prepare(_BUCKETS, keyspace=keyspace, data_centre=centre)
    pages = driver.pages(statement, (), consistency=Consistency.LOCAL_QUORUM, page_rows=PAGE_ROWS)
    highest = 0
    async for page in pages:
        highest = max([highest, *(channel_id for channel_id, *_ in page)])
    return highest


async def _keyspaces_with(driver: Driver, table: str) -> list[str]:
    columns: defaultdict[str, set[str]] = defaultdict(set)
    for keyspace, column in await driver.run(_COLUMNS, (table,)):
        columns[str(keyspace)].add(str(column))
    return sorted(keyspace for keyspace in columns if columns[keyspace] >= _OURS[table])


async def _centre(driver: Driver, keyspace: str) -> str:
    """The one data centre that a keyspace of ndcass lives in."""
    [(replication,)] = await driver.run(_REPLICATION, (keyspace,))
    return next(str(name) for name in replication if name != "class")

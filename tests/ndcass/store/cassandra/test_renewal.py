"""What a catalogue must not say after a restore, tried with one that starts anew."""

from ndcass.store.cassandra.catalog import CassandraCatalog
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.jobs import CassandraJobs
from ndcass.store.cassandra.partition import Partition
from ndcass.store.cassandra.renewal import renew_catalogues
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.tiers import Tiers
from tests.store_contract import channel, dataset, project, token

_CUBOID = (
    "INSERT INTO {}.cuboids (channel, pyramid, level, t, bucket, morton, kind, write_id, part)"
    " VALUES (%s, 0, 0, 0, 0, 0, 0, 0x00, 0)"
)


async def fill(catalog: CassandraCatalog, channel_name: str) -> int:
    """Four changes, the last of which makes a channel; its id."""
    await catalog.create_dataset(dataset())
    await catalog.create_project(project())
    await catalog.create_token(token())
    made = await catalog.create_channel(channel(channel_name))
    return made.id


def catalogue(tables: Tables) -> CassandraCatalog:
    return CassandraCatalog(tables, CassandraJobs(tables))


async def test_catalogue_of_before_is_neither_believed_nor_continued(
    driver: Driver, tables: Tables, two_tiers: Tiers
) -> None:
    gateway = catalogue(tables)
    first_id = await fill(gateway, "before")
    assert [one.name for one in (await gateway.token_view("tok")).channels] == ["before"]
    await driver.run(_CUBOID.format(two_tiers.ingest.keyspace), (first_id + 500,))
    await driver.run(f"TRUNCATE {two_tiers.meta.keyspace}.catalog")
    restored = catalogue(tables)
    assert await fill(restored, "after") == first_id, "an id that another channel had"
    stale = await gateway.token_view("tok")
    assert [one.name for one in stale.channels] == ["before"], "the versions are the same again"

    last_ids = await renew_catalogues(driver)

    assert last_ids[two_tiers.meta.keyspace] >= first_id + 500
    assert [one.name for one in (await gateway.token_view("tok")).channels] == ["after"]
    assert (await restored.create_channel(channel("next"))).id == last_ids[
        two_tiers.meta.keyspace
    ] + 1
    await driver.run(f"TRUNCATE {two_tiers.ingest.keyspace}.cuboids")


async def test_two_renewals_never_make_the_same_version(driver: Driver, tables: Tables) -> None:
    """As after two restores of one backup."""
    versions = []
    for _ in range(2):
        await driver.run(f"TRUNCATE {tables._keyspace}.catalog")
        await catalogue(tables).create_dataset(dataset())
        await renew_catalogues(driver)
        versions.append(await Partition(tables).version() or 0)
    assert versions[0] < versions[1]
    assert versions[0] > 1 << 40

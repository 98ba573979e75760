"""A keyspace with the schema in it, on real nodes; empty again for every test."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from ndcass.store.cassandra.driver import ConnectSettings, Driver
from ndcass.store.cassandra.schema import Keyspace, Keyspaces, apply_schema
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.tiers import Tier, Tiers
from tests.cassandra_nodes import CassandraNodes

_TABLES = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s"


@pytest.fixture(scope="session")
def cassandra_settings(cassandra_cluster: CassandraNodes) -> ConnectSettings:
    """How to reach the nodes."""
    return ConnectSettings(cassandra_cluster.contact_points, port=cassandra_cluster.port)


@pytest.fixture(scope="session")
def keyspaces(
    cassandra_cluster: CassandraNodes, cassandra_settings: ConnectSettings
) -> Iterator[Keyspaces]:
    """One tier, with all tables; tests share it."""
    keyspace = Keyspace(f"test_{uuid.uuid4().hex[:12]}", cassandra_cluster.data_centre, 3)
    made = Keyspaces(ingest=keyspace, archive=keyspace, meta=keyspace)

    async def make() -> None:
        async with connected(cassandra_settings) as driver:
            await apply_schema(driver, made)

    async def drop() -> None:
        async with connected(cassandra_settings) as driver:
            await driver.run(f"DROP KEYSPACE IF EXISTS {keyspace.name}", timeout_s=60)

    asyncio.run(make())
    yield made
    asyncio.run(drop())


@pytest.fixture(scope="session")
def one_tier(keyspaces: Keyspaces) -> Tiers:
    """Voxels and everything else in one keyspace."""
    archive = Tier(keyspaces.archive.name, keyspaces.archive.data_centre)
    return Tiers(ingest=archive, archive=archive)


@pytest.fixture(scope="session")
def two_tiers(
    keyspaces: Keyspaces, one_tier: Tiers, cassandra_settings: ConnectSettings
) -> Iterator[Tiers]:
    """A keyspace for writes beside the one that all tests share; in the same data centre."""
    ingest = replace(keyspaces.archive, name=f"test_{uuid.uuid4().hex[:12]}")

    async def make() -> None:
        async with connected(cassandra_settings) as driver:
            await apply_schema(driver, replace(keyspaces, ingest=ingest))

    async def drop() -> None:
        async with connected(cassandra_settings) as driver:
            await driver.run(f"DROP KEYSPACE IF EXISTS {ingest.name}")

    asyncio.run(make())
    yield Tiers(ingest=Tier(ingest.name, ingest.data_centre), archive=one_tier.archive)
    asyncio.run(drop())


@contextlib.asynccontextmanager
async def connected(settings: ConnectSettings) -> AsyncIterator[Driver]:
    driver = await Driver.connect(settings)
    try:
        yield driver
    finally:
        await driver.close()


@pytest.fixture
async def driver(cassandra_settings: ConnectSettings) -> AsyncIterator[Driver]:
    async with connected(cassandra_settings) as opened:
        yield opened


@pytest.fixture
async def tables(driver: Driver, keyspaces: Keyspaces) -> AsyncIterator[Tables]:
    """The tables of the keyspace, without any rows."""
    meta = keyspaces.meta
    tables = Tables(driver, keyspace=meta.name, data_centre=meta.data_centre)
    yield tables
    for (name,) in await driver.run(_TABLES, (meta.name,)):
        if name != "schema_versions" and await tables.rows(f"SELECT * FROM {name} LIMIT 1"):
            await driver.run(f"TRUNCATE {meta.name}.{name}")


@pytest.fixture(params=["one tier", "two tiers"])
def tiers(request: pytest.FixtureRequest, one_tier: Tiers, two_tiers: Tiers) -> Tiers:
    """Each test with both."""
    return one_tier if request.param == "one tier" else two_tiers

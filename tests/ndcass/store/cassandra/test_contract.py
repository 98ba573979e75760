"""The engine on Cassandra keeps what every engine promises."""

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from ndcass.config import CassandraSettings
from ndcass.store.base import Health, Stores
from ndcass.store.cassandra import CassandraStores, open_cassandra
from ndcass.store.cassandra.catalog import CassandraCatalog
from ndcass.store.cassandra.driver import ConnectSettings
from ndcass.store.cassandra.jobs import CassandraJobs
from ndcass.store.cassandra.labels import CassandraLabels
from ndcass.store.cassandra.objects import CassandraObjects
from ndcass.store.cassandra.records import CassandraRecords
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.tiers import Tiers
from ndcass.store.memory.cuboids import MemoryCuboids
from tests import store_contract as contract

REPLICAS = 3


class MetaStores:
    """The stores under test, beside voxels in memory."""

    def __init__(self, tables: Tables) -> None:
        self.cuboids = MemoryCuboids()
        self.stale = self.cuboids.stale
        self.jobs = CassandraJobs(tables)
        self.catalog = CassandraCatalog(tables, self.jobs)
        self.objects = CassandraObjects(tables, Stamps())
        self.labels = CassandraLabels(tables, Stamps())
        self.records = CassandraRecords(tables, Stamps())

    @property
    def counts(self) -> Mapping[str, float]:
        return {}

    async def health(self) -> Health:
        return Health(ready=True)

    async def maintain(self) -> None:
        await self.catalog.submit_left_over()
        await self.catalog.delete_unknown({address.channel_id for address in self.cuboids.rows})
        await self.objects.finish_puts()

    async def close(self) -> None:
        """Whoever made the tables closes them."""


class Opened:
    @pytest.fixture
    async def stores(self, tables: Tables) -> Stores:
        return MetaStores(tables)


class TestCatalog(Opened, contract.CatalogContract):
    pass


class TestJobs(Opened, contract.JobsContract):
    pass


class TestObjects(Opened, contract.ObjectContract):
    pass


class TestLabels(Opened, contract.LabelContract):
    pass


class TestRecords(Opened, contract.RecordContract):
    pass


async def opened_stores(connect: ConnectSettings, tiers: Tiers) -> AsyncIterator[CassandraStores]:
    """All stores, opened as a gateway does."""
    stores = await open_cassandra(
        CassandraSettings(
            contact_points=connect.contact_points,
            port=connect.port,
            archive_keyspace=tiers.archive.keyspace,
            archive_data_centre=tiers.archive.data_centre,
            archive_replicas=REPLICAS,
            ingest_keyspace="" if tiers.is_single else tiers.ingest.keyspace,
            ingest_data_centre="" if tiers.is_single else tiers.ingest.data_centre,
            ingest_replicas=REPLICAS,
            max_clock_skew_ms=0,
        )
    )
    yield stores
    await stores.close()


async def emptied(stores: CassandraStores) -> AsyncIterator[Stores]:
    """The stores; channels of a test are forgotten when it has ended (to truncate takes longer)."""
    await _forget_channels(stores)
    yield stores
    await _forget_channels(stores)


async def _forget_channels(stores: CassandraStores) -> None:
    meta = stores.cuboids.tiers.meta.keyspace
    roots = f"SELECT DISTINCT channel FROM {meta}.occupancy_roots"
    for (channel_id,) in await stores.driver.run(roots):
        await stores.cuboids.delete_channel(channel_id)
    for (channel_id,) in await stores.driver.run(
        f"SELECT DISTINCT channel FROM {meta}.stale_roots"
    ):
        await stores.stale.delete_channel(channel_id)


# One connection for all tests of a kind: there are many, and to connect takes a while.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_one_tier(
    cassandra_settings: ConnectSettings, one_tier: Tiers
) -> AsyncIterator[CassandraStores]:
    async for stores in opened_stores(cassandra_settings, one_tier):
        yield stores


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_two_tiers(
    cassandra_settings: ConnectSettings, two_tiers: Tiers
) -> AsyncIterator[CassandraStores]:
    async for stores in opened_stores(cassandra_settings, two_tiers):
        yield stores


@pytest.mark.asyncio(loop_scope="module")
class TestCuboids(contract.CuboidContract):
    shows_what_is_under_way = True  # replicas get it one after another

    @pytest_asyncio.fixture(loop_scope="module")
    async def stores(  # type: ignore[override] # the plugin's fixtures have another type
        self, on_one_tier: CassandraStores
    ) -> AsyncIterator[Stores]:
        async for stores in emptied(on_one_tier):
            yield stores


@pytest.mark.asyncio(loop_scope="module")
class TestStale(contract.StaleContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def stores(  # type: ignore[override] # the plugin's fixtures have another type
        self, on_one_tier: CassandraStores
    ) -> AsyncIterator[Stores]:
        async for stores in emptied(on_one_tier):
            yield stores


@pytest.mark.asyncio(loop_scope="module")
class TestCuboidsOfTwoTiers(contract.CuboidContract):
    shows_what_is_under_way = True  # replicas get it one after another

    @pytest_asyncio.fixture(loop_scope="module")
    async def stores(  # type: ignore[override] # the plugin's fixtures have another type
        self, on_two_tiers: CassandraStores
    ) -> AsyncIterator[Stores]:
        async for stores in emptied(on_two_tiers):
            yield stores

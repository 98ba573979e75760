"""What is no voxel keeps, on Cassandra, what every engine promises."""

import pytest

from ndcass.store.base import Health, Stores
from ndcass.store.cassandra.catalog import CassandraCatalog
from ndcass.store.cassandra.jobs import CassandraJobs
from ndcass.store.cassandra.labels import CassandraLabels
from ndcass.store.cassandra.objects import CassandraObjects
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Tables
from ndcass.store.memory import MemoryCuboids
from tests import store_contract as contract


class MetaStores:
    """The stores under test, beside voxels in memory."""

    def __init__(self, tables: Tables) -> None:
        self.cuboids = MemoryCuboids()
        self.jobs = CassandraJobs(tables)
        self.catalog = CassandraCatalog(tables, self.jobs)
        self.objects = CassandraObjects(tables, Stamps())
        self.labels = CassandraLabels(tables, Stamps())

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

"""The embedded engine keeps what every engine promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ndcass.store.base import Stores
from ndcass.store.embedded import DATABASE_NAME, EmbeddedStores, open_embedded
from ndcass.store.embedded.cuboids import EmbeddedCuboids
from ndcass.store.embedded.sqlite import Database
from tests import store_contract as contract


class Opened:
    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        opened = await open_embedded(tmp_path)
        yield opened
        await opened.close()


class TestCuboids(Opened, contract.CuboidContract):
    pass


class TestCuboidsInSmallSegments(contract.CuboidContract):
    """A few cuboids fill a segment, so that housekeeping has some to copy and to drop."""

    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        database = Database.open(tmp_path / DATABASE_NAME)
        cuboids = EmbeddedCuboids.open(tmp_path, segment_bytes=8 << 10)
        opened = EmbeddedStores(tmp_path, database, cuboids)
        yield opened
        await opened.close()


class TestCatalog(Opened, contract.CatalogContract):
    pass


class TestJobs(Opened, contract.JobsContract):
    pass


class TestObjects(Opened, contract.ObjectContract):
    pass


class TestLabels(Opened, contract.LabelContract):
    pass

"""The embedded engine keeps what every engine promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ndcass.store.base import Stores
from ndcass.store.embedded import DATABASE_NAME, TOKEN_NAME, EmbeddedStores, open_embedded
from ndcass.store.embedded import cuboids as embedded_cuboids
from ndcass.store.embedded.cuboids import EmbeddedCuboids
from ndcass.store.embedded.sqlite import Database
from ndcass.store.embedded.token import ChangeToken
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
    """A few cuboids fill a segment, so that housekeeping has some to copy and to drop.

    What a commit may have to merge again is kept in the segment as well, as in large writes.
    """

    @pytest.fixture
    async def stores(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Stores]:
        monkeypatch.setattr(embedded_cuboids, "REDO_BYTES", 0)
        database = Database.open(tmp_path / DATABASE_NAME)
        cuboids = EmbeddedCuboids.open(tmp_path, segment_bytes=8 << 10)
        token = ChangeToken.open(tmp_path / TOKEN_NAME)
        opened = EmbeddedStores(tmp_path, database, token, cuboids)
        yield opened
        await opened.close()


class TestStale(Opened, contract.StaleContract):
    pass


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

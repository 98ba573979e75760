"""The embedded engine keeps what every engine promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from tests import store_contract as contract


class Opened:
    @pytest.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]:
        opened = await open_embedded(tmp_path)
        yield opened
        await opened.close()


class TestCuboids(Opened, contract.CuboidContract):
    pass


class TestCatalog(Opened, contract.CatalogContract):
    pass


class TestJobs(Opened, contract.JobsContract):
    pass


class TestObjects(Opened, contract.ObjectContract):
    pass


class TestLabels(Opened, contract.LabelContract):
    pass

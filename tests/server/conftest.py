"""Fixtures of the gateway's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from tests.server.annotated import make_annotated
from tests.server.pictured import make_pictured
from tests.server.running import Running, running


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    """The gateway on the embedded engine."""
    stores = await open_embedded(tmp_path / "data")
    try:
        async with running(stores) as found:
            yield found
    finally:
        await stores.close()


@pytest.fixture
async def pictured() -> AsyncIterator[Running]:
    """A gateway with the volume `v` of ``pictured.py``, in memory: it is made for every test."""
    async with running(MemoryStores()) as app:
        await make_pictured(app)
        yield app


@pytest.fixture
async def annotated(app: Running) -> Running:
    """The gateway on the embedded engine with the volume `v` of ``annotated.py``."""
    await make_annotated(app)
    return app

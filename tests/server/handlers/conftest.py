"""Fixtures of the handlers' tests."""

from collections.abc import AsyncIterator

import pytest

from ndcass.store.memory import MemoryStores
from tests.server.pictured import make_pictured
from tests.server.running import Running, running


@pytest.fixture
async def pictured() -> AsyncIterator[Running]:
    """A gateway with the volume `v` of ``pictured.py``, in memory: it is made for every test."""
    async with running(MemoryStores()) as app:
        await make_pictured(app)
        yield app

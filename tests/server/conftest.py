"""Fixtures of the gateway's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ndcass.store.embedded import open_embedded
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

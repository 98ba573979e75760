"""Stores for pyramids, in one batch and level by level."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ndcass.jobs import pyramid
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores


@pytest.fixture(params=["memory", "memory, level by level", "embedded"])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stores]:
    """Small volumes are rebuilt in one batch, unless they are told to go level by level."""
    if request.param.endswith("level by level"):
        monkeypatch.setattr(pyramid, "LEAST_TOGETHER", 0)
        monkeypatch.setattr(pyramid, "TOGETHER_BYTES", 0)
    is_memory = request.param.startswith("memory")
    opened: Stores = MemoryStores() if is_memory else await open_embedded(tmp_path)
    yield opened
    await opened.close()

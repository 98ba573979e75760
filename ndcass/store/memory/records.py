"""Side records in memory."""

from collections.abc import Sequence

from ndcass.store.base import (
    MOST_RECORD_KEYS,
)
from ndcass.store.memory.dicts import forget
from ndcass.store.values import check_record


class MemoryRecords:
    """The `SideRecords` in a dict."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, str, str], bytes] = {}

    async def put(self, channel_id: int, kind: str, key: str, value: bytes) -> None:
        """As `SideRecords.put`."""
        check_record(kind, key, value)
        self._values[channel_id, kind, key] = bytes(value)

    async def get(self, channel_id: int, kind: str, key: str) -> bytes | None:
        """As `SideRecords.get`."""
        check_record(kind, key)
        return self._values.get((channel_id, kind, key))

    async def keys(self, channel_id: int, kind: str) -> Sequence[str]:
        """As `SideRecords.keys`."""
        of_kind = (key for *of, key in self._values if of == [channel_id, kind])
        return sorted(of_kind)[:MOST_RECORD_KEYS]

    async def delete(self, channel_id: int, kind: str, key: str) -> None:
        """As `SideRecords.delete`."""
        check_record(kind, key)
        self._values.pop((channel_id, kind, key), None)

    async def delete_channel(self, channel_id: int) -> int:
        """As `SideRecords.delete_channel`."""
        return forget(self._values, lambda key: key[0] == channel_id)

"""Objects and the label index in memory."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from ndcass.errors import AlreadyExists
from ndcass.store.base import (
    CLAIM_S,
    LABEL_WINDOW_S,
    Predicate,
    StoredObject,
)
from ndcass.store.memory.dicts import forget, json_copy
from ndcass.store.query import meets


class MemoryObjects:
    """The `ObjectStore` in a dict by channel and id."""

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._fields: dict[tuple[int, int], Mapping[str, Any]] = {}
        # When an id was claimed.
        self._claims: dict[tuple[int, int], float] = {}

    async def put(self, channel_id: int, objects: Sequence[StoredObject]) -> None:
        """As `ObjectStore.put`."""
        self._fields |= {(channel_id, item.id): json_copy(item.fields) for item in objects}

    async def claim(self, channel_id: int, ids: Sequence[int]) -> None:
        """As `ObjectStore.claim`."""
        now_s = self._now_s()
        for key in [(channel_id, object_id) for object_id in ids]:
            claimed = self._claims.get(key, now_s - CLAIM_S) > now_s - CLAIM_S
            if claimed or key in self._fields:
                raise AlreadyExists(f"object {key[1]} exists, or is just being made")
        self._claims |= {(channel_id, object_id): now_s for object_id in ids}

    async def change(self, channel_id: int, object_id: int, fields: Mapping[str, Any]) -> bool:
        """As `ObjectStore.change`."""
        found = self._fields.get((channel_id, object_id))
        if found is not None:
            self._fields[channel_id, object_id] = {**found, **json_copy(fields)}
        return found is not None

    async def get(self, channel_id: int, ids: Sequence[int]) -> Sequence[StoredObject]:
        """As `ObjectStore.get`."""
        return [
            StoredObject(object_id, copy.deepcopy(self._fields[channel_id, object_id]))
            for object_id in ids
            if (channel_id, object_id) in self._fields
        ]

    async def delete(self, channel_id: int, ids: Sequence[int]) -> int:
        """As `ObjectStore.delete`."""
        wanted = {(channel_id, object_id) for object_id in ids}
        forget(self._claims, lambda key: key in wanted)
        return forget(self._fields, lambda key: key in wanted)

    async def query(
        self, channel_id: int, predicates: Sequence[Predicate], *, limit: int
    ) -> Sequence[int]:
        """As `ObjectStore.query`."""
        found = (
            object_id
            for (channel, object_id), fields in self._fields.items()
            if channel == channel_id and all(meets(fields, p) for p in predicates)
        )
        return sorted(found)[:limit]

    async def delete_channel(self, channel_id: int) -> int:
        """As `ObjectStore.delete_channel`."""
        forget(self._claims, lambda key: key[0] == channel_id)
        return forget(self._fields, lambda key: key[0] == channel_id)


class MemoryLabels:
    """The `LabelIndex` in a dict of dicts: when each cuboid of a label was noted."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._cuboids: dict[tuple[int, int, int], dict[tuple[int, int], float]] = defaultdict(dict)
        self._now_s = now_s

    @property
    def window_s(self) -> float:
        """As `LabelIndex.window_s`."""
        return LABEL_WINDOW_S

    async def append(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> None:
        """As `LabelIndex.append`."""
        now_s = self._now_s()
        for label, mortons in mortons_of.items():
            noted = self._cuboids[channel_id, level, int(label)]
            noted.update(((t, int(morton)), now_s) for morton in mortons)

    async def mortons(self, channel_id: int, level: int, label: int) -> Sequence[tuple[int, int]]:
        """As `LabelIndex.mortons`."""
        return sorted(self._cuboids.get((channel_id, level, label), ()))

    async def listed(self, channel_id: int, level: int, labels: Sequence[int]) -> set[int]:
        """As `LabelIndex.listed`."""
        return {label for label in labels if self._cuboids.get((channel_id, level, label))}

    async def missing(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> Mapping[int, Sequence[int]]:
        """As `LabelIndex.missing`."""
        found = {
            label: [m for m in mortons if (t, m) not in self._cuboids.get(key, ())]
            for label, mortons in mortons_of.items()
            for key in [(channel_id, level, int(label))]
        }
        return {label: mortons for label, mortons in found.items() if mortons}

    async def labels(self, channel_id: int, level: int) -> AsyncIterator[Sequence[int]]:
        """As `LabelIndex.labels`."""
        yield [key[2] for key in self._cuboids if key[:2] == (channel_id, level)]

    async def discard(
        self,
        channel_id: int,
        level: int,
        label: int,
        cuboids: Sequence[tuple[int, int]],
        *,
        older_than_s: float = 0.0,
    ) -> None:
        """As `LabelIndex.discard`."""
        noted = self._cuboids.get((channel_id, level, label), {})
        latest_s = self._now_s() - older_than_s
        for cuboid in cuboids:
            if noted.get(cuboid, math.inf) <= latest_s:
                del noted[cuboid]

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every entry of a channel; how many there were."""
        entries = sum(len(found) for key, found in self._cuboids.items() if key[0] == channel_id)
        forget(self._cuboids, lambda key: key[0] == channel_id)
        return entries

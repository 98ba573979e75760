"""All protocols of `store.base` in dicts: the reference behaviour, for tests and trials.

Nothing outlives the process and only one event loop may use it. Cuboids are kept as a distributed
store keeps them, as rows that are only ever appended: a reader gets several rows a cuboid and
merges them.
"""

import time
from collections.abc import Callable, Mapping

from ndcass.store.base import Health
from ndcass.store.memory.annotations import MemoryLabels, MemoryObjects
from ndcass.store.memory.catalog import MemoryCatalog
from ndcass.store.memory.cuboids import MemoryCuboids
from ndcass.store.memory.jobs import MemoryJobs
from ndcass.store.memory.records import MemoryRecords


class MemoryStores:
    """One of each store; see `store.base.Stores`."""

    def __init__(self, *, now_s: Callable[[], float] = time.time) -> None:
        self.cuboids = MemoryCuboids()
        self.stale = self.cuboids.stale
        self.jobs = MemoryJobs(now_s)
        self.catalog = MemoryCatalog(self.jobs)
        self.objects = MemoryObjects(now_s)
        self.labels = MemoryLabels()
        self.records = MemoryRecords()
        self.counts: Mapping[str, float] = {}

    async def health(self) -> Health:
        """Always well."""
        return Health(ready=True)

    async def maintain(self) -> None:
        """See to what was written into a deleted channel; rows are never folded."""
        self.catalog.delete_unknown({address.channel_id for address in self.cuboids.rows})

    async def close(self) -> None:
        """Nothing to let go of."""

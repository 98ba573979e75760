"""Which buckets have cuboids of many rows, as far as this process met them.

Readers see how many rows a cuboid has; writers only know how many they sent themselves. Both are
hints: what is missed here is slow to read, never wrong.
"""

from collections import Counter
from collections.abc import Iterable

from ndcass.store.cassandra.rows import Bucket

# A cuboid with more rows than this is worth folding.
CROWDED_ROWS = 4
# Of buckets that wait to be noted, and of cuboids whose writes are counted.
MOST_CROWDED = 10_000
MOST_COUNTED = 1 << 16


class Crowding:
    """Gathers buckets that are worth folding.

    Parameters
    ----------
    more_than : int
        So many rows of a cuboid are no crowd.
    """

    def __init__(self, *, more_than: int = CROWDED_ROWS) -> None:
        self.more_than = more_than
        self._crowded: dict[Bucket, int] = {}
        self._written: Counter[tuple[Bucket, int]] = Counter()

    def __len__(self) -> int:
        return len(self._crowded)

    def met(self, bucket: Bucket, rows: int) -> None:
        """A cuboid of a bucket has so many rows."""
        if rows > self.more_than and (len(self._crowded) < MOST_CROWDED or bucket in self._crowded):
            self._crowded[bucket] = max(rows, self._crowded.get(bucket, 0))

    def wrote(self, bucket: Bucket, mortons: Iterable[int]) -> None:
        """Another row of these cuboids was sent."""
        if len(self._written) > MOST_COUNTED:
            self._written.clear()
        for morton in mortons:
            self._written[bucket, morton] += 1
            rows = self._written[bucket, morton]
            if rows > self.more_than:
                self.met(bucket, rows)
                del self._written[bucket, morton]

    def take(self) -> list[Bucket]:
        """The buckets gathered so far, the most crowded first; they are not kept."""
        crowded, self._crowded = self._crowded, {}
        return sorted(crowded, key=lambda bucket: -crowded[bucket])

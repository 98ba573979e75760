"""How each channel's cuboids are spread: its bucket bits, written once and remembered for ever."""

import contextlib
from typing import NamedTuple

from ndcass.errors import StoreError, TransactionUnknown
from ndcass.store.cassandra.driver import Consistency, Driver, Statement
from ndcass.store.cassandra.tiers import Tier

# A bucket of cuboids written once has about this size, and no more of them than four an axis.
# Asking for headers costs by the bucket (`make bench-cassandra`, bucket bits), and a partition is
# to stay far below 100 MB when its cuboids have several rows.
BUCKET_BYTES = 16 << 20
MOST_BUCKET_BITS = 6

_READ = "SELECT bucket_bits, cuboid_bytes FROM channel_layouts WHERE channel=?"
_WRITE = (
    "INSERT INTO channel_layouts (channel, bucket_bits, cuboid_bytes) VALUES (?, ?, ?) "
    "IF NOT EXISTS"
)
_FORGET = "DELETE FROM channel_layouts WHERE channel=?"
_TRIES = 5


class Layout(NamedTuple):
    """`bucket_bits` low bits of the Morton code are no part of the partition key."""

    bucket_bits: int
    cuboid_bytes: int


def bucket_bits_for(cuboid_bytes: int) -> int:
    """How many bits suit cuboids of a size."""
    fitting = max(1, BUCKET_BYTES // max(1, cuboid_bytes))
    return min(MOST_BUCKET_BITS, fitting.bit_length() - 1)


class Layouts:
    """The table ``channel_layouts``. A layout never changes, so nobody asks for it twice."""

    def __init__(self, driver: Driver, tier: Tier, *, bucket_bits: int | None = None) -> None:
        self._driver = driver
        self._tier = tier
        self._bucket_bits = bucket_bits
        self._known: dict[int, Layout] = {}

    async def layout(self, channel_id: int) -> Layout | None:
        """A channel's; None if nothing was ever written to it."""
        known = self._known.get(channel_id)
        if known is None:
            known = await self._read(channel_id, Consistency.LOCAL_QUORUM)
            if known is not None:
                self._known[channel_id] = known
        return known

    async def settle(self, channel_id: int, cuboid_bytes: int) -> Layout:
        """A channel's, made now if it has none; whoever comes first decides."""
        known = await self.layout(channel_id)
        if known is not None:
            return known
        bits = self._bucket_bits
        wanted = Layout(bucket_bits_for(cuboid_bytes) if bits is None else bits, cuboid_bytes)
        statement = await self._prepared(_WRITE)
        for _ in range(_TRIES):
            with contextlib.suppress(TransactionUnknown):  # reading tells
                await self._driver.transact([(statement, (channel_id, *wanted))])
            known = await self._read(channel_id, Consistency.LOCAL_SERIAL)
            if known is not None:
                self._known[channel_id] = known
                return known
        raise StoreError("the layout of a channel could not be settled")

    async def forget(self, channel_id: int) -> None:
        """Of a deleted channel, whose id is never used again."""
        await self._driver.execute(
            await self._prepared(_FORGET), (channel_id,), consistency=Consistency.LOCAL_QUORUM
        )
        self._known.pop(channel_id, None)

    async def _read(self, channel_id: int, consistency: Consistency) -> Layout | None:
        statement = await self._prepared(_READ)
        rows = await self._driver.execute(statement, (channel_id,), consistency=consistency)
        return Layout(*rows[0]) if rows else None

    async def _prepared(self, cql: str) -> Statement:
        return await self._driver.prepare(
            cql, keyspace=self._tier.keyspace, data_centre=self._tier.data_centre
        )

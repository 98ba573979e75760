"""The pointers of a bucket: which base each cuboid has, moved by lightweight transactions.

A transaction is about one bucket, which is one partition: pointers and bases are both in it, so
that a pointer moves only to a base that is there at that moment, and a base is dropped only while
the pointer still is the one that does not name it. Who is slow, or is stopped for an hour in
between, changes nothing then. Voxels never travel through a transaction.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ndcass.errors import TransactionUnknown
from ndcass.store.cassandra.driver import Consistency, Driver, Statement
from ndcass.store.cassandra.rows import (
    BASE,
    POINTER,
    POINTER_ID,
    Bucket,
    Head,
    Pointer,
    pack_header,
)
from ndcass.store.cassandra.tiers import Tier

_ROW = (
    "WHERE channel=? AND pyramid=? AND level=? AND t=? AND bucket=? "
    "AND morton=? AND kind=? AND write_id=?"
)
_SETTLED = (
    "SELECT morton, header FROM cuboids "
    "WHERE channel=? AND pyramid=? AND level=? AND t=? AND bucket=? "
    "AND morton IN ? AND kind=? AND write_id=? AND part=0"
)
# A header that is null and a row that is not there are the same to the condition.
_SWAP = f"UPDATE cuboids SET header=? {_ROW} AND part=0 IF header=?"
_DROP = f"DELETE FROM cuboids {_ROW}"


class Move(NamedTuple):
    """A cuboid whose pointer is to name another base."""

    old: Pointer | None
    new: Pointer
    base: Head


class Pointers:
    """Pointers in the archive."""

    def __init__(self, driver: Driver, archive: Tier) -> None:
        self._driver = driver
        self._tier = archive

    async def settled(self, bucket: Bucket, mortons: Sequence[int]) -> dict[int, Pointer]:
        """The pointers of some cuboids, those that have one.

        At LOCAL_SERIAL: a transaction that began before this either has happened, and every read
        at quorum from now on sees it, or never will.
        """
        statement = await self._prepared(_SETTLED)
        rows = await self._driver.execute(
            statement,
            (*bucket, list(mortons), POINTER, POINTER_ID),
            consistency=Consistency.LOCAL_SERIAL,
        )
        return {morton: Pointer.unpack(header) for morton, header in rows if header is not None}

    async def move(self, bucket: Bucket, moves: Sequence[Move]) -> bool:
        """Have all pointers name their new bases, or none; whether that happened.

        It does not if a pointer is not the old one any more, or a base is gone.
        """
        swap = await self._prepared(_SWAP)
        entries: list[tuple[Statement, Sequence[object]]] = []
        for move in moves:
            morton = move.base.morton
            header = pack_header(move.base, bucket.address(morton))
            base_key = (*bucket, morton, BASE, move.base.write_id)
            # The base's header stays as it is; that it is there is the condition.
            entries.append((swap, (header, *base_key, header)))
            entries.append(self._pointer_swap(swap, bucket, morton, move.old, move.new))
        try:
            return (await self._driver.transact(entries)).applied
        except TransactionUnknown:
            mortons = [move.base.morton for move in moves]
            settled = await self.settled(bucket, mortons)
            return all(settled.get(move.base.morton) == move.new for move in moves)

    async def drop_bases(
        self,
        bucket: Bucket,
        pointers: Mapping[int, Pointer | None],
        bases: Sequence[tuple[int, bytes]],
    ) -> bool:
        """Drop bases, (morton, write id), as long as the pointers of their cuboids are these.

        Returns
        -------
        bool
            False if a pointer moved meanwhile, and nothing was dropped; also if nobody knows.
        """
        swap, drop = await self._prepared(_SWAP), await self._prepared(_DROP)
        entries: list[tuple[Statement, Sequence[object]]] = []
        for morton in sorted({morton for morton, _ in bases}):
            pointer = pointers.get(morton)
            entries.append(self._pointer_swap(swap, bucket, morton, pointer, pointer))
        entries += [(drop, (*bucket, morton, BASE, base_id)) for morton, base_id in bases]
        try:
            return (await self._driver.transact(entries)).applied
        except TransactionUnknown:
            return False

    def _pointer_swap(
        self,
        swap: Statement,
        bucket: Bucket,
        morton: int,
        old: Pointer | None,
        new: Pointer | None,
    ) -> tuple[Statement, Sequence[object]]:
        headers = [pointer.pack() if pointer is not None else None for pointer in (new, old)]
        return swap, (headers[0], *bucket, morton, POINTER, POINTER_ID, headers[1])

    async def _prepared(self, cql: str) -> Statement:
        return await self._driver.prepare(
            cql, keyspace=self._tier.keyspace, data_centre=self._tier.data_centre
        )

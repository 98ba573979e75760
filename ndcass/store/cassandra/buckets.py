"""Reads rows of one partition of ``cuboids``: headers at quorum, payloads from one replica.

The headers decide which rows there are. Rows never change, so that a payload which fits its
checksum is right, whichever replica sent it; one that is missing or damaged is asked of a quorum,
then of every replica in turn. If its row is gone by then it was folded, and the headers are read
again. Nothing here turns a failure into an absent row.

With two tiers writes are in ``ingest``, bases and pointers in ``archive``, and the headers of
``ingest`` are read first: a write that has left it is then certainly in ``archive``.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ndcass import codec
from ndcass.concurrency import both, bounded_map, run_cpu
from ndcass.errors import CorruptValue, StoreError, StoreUnavailable
from ndcass.merge import CuboidRow
from ndcass.store.base import CuboidAddress
from ndcass.store.cassandra.driver import Consistency, Driver, Statement
from ndcass.store.cassandra.rows import (
    BASE,
    PART_BYTES,
    POINTER,
    WRITE,
    Bucket,
    Head,
    Pointer,
    unpack_header,
)
from ndcass.store.cassandra.tables import batched
from ndcass.store.cassandra.tiers import Tier

logger = logging.getLogger(__name__)

# A page of payloads; a reply of 128 MiB would be refused between the nodes.
PAGE_BYTES = 4 << 20
# Pages of one bucket under way.
PAGES_AT_ONCE = 4
# Payloads of one bucket that are held at once; one whose cuboids were written once has a quarter.
BUCKET_BYTES_AT_ONCE = 64 << 20
HEADERS_A_PAGE = 4096
HEADER_BYTES = 128
MOST_READS = 4

_WHERE = "WHERE channel=? AND pyramid=? AND level=? AND t=? AND bucket=? "
_RANGE = "AND morton>=? AND morton<=?"
_SOME = "AND morton IN ?"
_HEADS = "SELECT morton, kind, write_id, part, header FROM cuboids " + _WHERE
_PAYLOADS = "SELECT morton, kind, write_id, part, payload FROM cuboids " + _WHERE
_PAYLOADS_OF_RANGE = _PAYLOADS + "AND morton=? AND kind=? AND write_id>=? AND write_id<=?"
_PAYLOAD = (
    "SELECT payload FROM cuboids " + _WHERE + "AND morton=? AND kind=? AND write_id=? AND part=?"
)


@dataclass(slots=True)
class Heads:
    """The rows of one cuboid, without payloads.

    Attributes
    ----------
    writes : list of Head
        In the order of their ids; those at or below the watermark included.
    bases : mapping of write id to Head
    pointer : Pointer or None
    """

    writes: list[Head] = field(default_factory=list)
    bases: dict[bytes, Head] = field(default_factory=dict)
    pointer: Pointer | None = None

    @property
    def base(self) -> Head | None:
        """The valid base; None before the first fold, and where it was not met."""
        return self.bases.get(self.pointer.base_id) if self.pointer is not None else None

    @property
    def is_torn(self) -> bool:
        """Whether the pointer names a base that was not met: it moved while the pages came."""
        return self.pointer is not None and self.base is None

    @property
    def unfolded(self) -> list[Head]:
        """The writes that are not in the base."""
        if self.pointer is None:
            return self.writes
        return [head for head in self.writes if head.write_id > self.pointer.watermark]

    @property
    def valid(self) -> list[Head]:
        """What makes the cuboid, in the order of merging."""
        return [self.base, *self.unfolded] if self.base is not None else self.unfolded

    @property
    def version(self) -> bytes:
        """Names what makes the cuboid, even where the base was not met; empty if nothing does."""
        pointer = self.pointer
        start = b"" if pointer is None else pointer.base_id + pointer.watermark
        return b"".join([start, *(head.write_id for head in self.unfolded)])


class Crowded(Exception):
    """A bucket has more bytes of payloads than are read at once.

    `cuboids` is how many cuboids of it may be.
    """

    def __init__(self, cuboids: int) -> None:
        super().__init__(cuboids)
        self.cuboids = cuboids


class _Payloads(dict[tuple[int, int, bytes, int], bytes]):
    """Payloads by (morton, kind, write id, part), and how many bytes they have."""

    size_bytes = 0


class BucketReader:
    """Reads partitions of ``cuboids``; `counts` has what had to be done beyond one look."""

    def __init__(
        self, driver: Driver, ingest: Tier, archive: Tier, *, read_window_s: float
    ) -> None:
        self._driver = driver
        self._read_window_s = read_window_s
        # Writes first: see the module's text.
        self.tiers = (ingest,) if ingest == archive else (ingest, archive)
        self.counts: Counter[str] = Counter()

    async def rows(
        self,
        bucket: Bucket,
        mortons: Sequence[int] | None,
        *,
        cuboid_bytes: int,
        checked: bool = False,
    ) -> Mapping[int, tuple[list[CuboidRow], Heads]]:
        """The rows of a bucket's cuboids (or some of them), merged order, payloads complete.

        Parameters
        ----------
        mortons : sequence of int or None
            Which cuboids, ascending; None means all.
        cuboid_bytes : int
            Of one cuboid, for the size of a page.
        checked : bool
            Whether every byte of the payloads is checked here, so that a damaged one is replaced
            by another replica's. Otherwise whoever decodes them checks.

        Raises
        ------
        CorruptValue
            If no replica has a payload that fits.
        Crowded
            If several cuboids have too much to be read together.
        StoreError
        """
        missing: CuboidAddress | None = None
        for _ in range(MOST_READS):
            missing = None
            heads, payloads = await both(
                self.heads(bucket, mortons), self._payloads(bucket, mortons, cuboid_bytes)
            )
            _refuse_crowded(heads)
            if any(cuboid.is_torn for cuboid in heads.values()):
                self.counts["torn"] += 1
                continue
            found: dict[int, tuple[list[CuboidRow], Heads]] = {}
            for morton, cuboid in heads.items():
                self.counts["rows_ignored"] += len(cuboid.writes) - len(cuboid.unfolded)
                rows = await self._complete(bucket, cuboid.valid, payloads, checked=checked)
                if rows is None:  # folded and swept since its header was read, or lost
                    missing = bucket.address(morton)
                    self.counts["reread"] += 1
                    break
                if rows:
                    found[morton] = (rows, cuboid)
            if missing is None:
                return found
        if missing is None:
            raise StoreError("a cuboid is folded faster than it can be read")
        raise CorruptValue(f"{missing}: no node has a payload that fits its checksum")

    async def complete(self, bucket: Bucket, heads: Sequence[Head]) -> list[CuboidRow] | None:
        """Some rows of one cuboid with their payloads, every byte checked; None if one is gone."""
        payloads = _Payloads()
        for kind in (WRITE, BASE):
            some = [head for head in heads if head.kind == kind]
            if not some:
                continue
            statement = await self._prepared(_PAYLOADS_OF_RANGE, self._tier_of(kind))
            first, last = some[0], some[-1]
            values = (*bucket, first.morton, kind, first.write_id, last.write_id)
            page_rows = max(1, PAGE_BYTES // min(PART_BYTES, max(head.size_bytes for head in some)))
            with contextlib.suppress(StoreError):  # what is missing is asked for again
                await self._gather(statement, values, payloads, page_rows=page_rows)
        return await self._complete(bucket, heads, payloads, checked=True)

    async def is_whole(self, bucket: Bucket, head: Head) -> bool:
        """Whether a quorum returns the payload of a row, and every byte of it fits."""
        statement = await self._prepared(_PAYLOAD, self._tier_of(head.kind))
        parts = [
            await self._part(statement, (*bucket, *key), Consistency.LOCAL_QUORUM, (), [])
            for key in _keys(head)
        ]
        address = bucket.address(head.morton)
        row = _joined(head, address, parts)
        return row is not None and await run_cpu(_verified, row, head, address) is not None

    async def heads(self, bucket: Bucket, mortons: Sequence[int] | None = None) -> dict[int, Heads]:
        """The rows of a bucket's cuboids (or of some), without payloads, by Morton code, ascending.

        Raises
        ------
        CorruptValue
            If a header does not fit its checksum, whichever replicas answer.
        StoreUnavailable
            If reading takes longer than the window in which folded rows stay, again and again.
        """
        for _ in range(MOST_READS):
            began = time.monotonic()
            found: dict[int, Heads] = {}
            for tier in self.tiers:
                await self._read_heads(tier, bucket, mortons, found)
            if time.monotonic() - began <= self._read_window_s:
                return dict(sorted(found.items()))
            self.counts["late"] += 1
        raise StoreUnavailable("the store took too long to say what is stored")

    async def _read_heads(
        self, tier: Tier, bucket: Bucket, mortons: Sequence[int] | None, found: dict[int, Heads]
    ) -> None:
        statement, values = await self._select(_HEADS, tier, bucket, mortons)
        wanted = None if mortons is None else set(mortons)  # a range has others as well
        async for page in self._driver.pages(
            statement,
            values,
            consistency=Consistency.LOCAL_QUORUM,
            page_rows=HEADERS_A_PAGE,
            size_bytes=HEADER_BYTES * (len(mortons) if mortons else 64),
        ):
            for morton, kind, write_id, part, header in page:
                # A later part, or what is left of a row that was never finished.
                if part == 0 and header is not None and (wanted is None or morton in wanted):
                    cuboid = found.get(morton)
                    if cuboid is None:
                        cuboid = found[morton] = Heads()
                    _note(cuboid, kind, write_id, header, bucket.address(morton))

    # -- payloads

    async def _payloads(
        self, bucket: Bucket, mortons: Sequence[int] | None, cuboid_bytes: int
    ) -> _Payloads:
        """What one replica has; it may lack rows that the headers will name."""
        payloads = _Payloads()

        async def gather(piece: tuple[Tier, Sequence[int] | None]) -> None:
            tier, some = piece
            statement, values = await self._select(_PAYLOADS, tier, bucket, some)
            # A failure here is no failure of the read: what is missing is asked for again.
            with contextlib.suppress(StoreError):
                await self._gather(
                    statement,
                    values,
                    payloads,
                    page_rows=max(1, PAGE_BYTES // min(PART_BYTES, cuboid_bytes)),
                    size_bytes=min(PAGE_BYTES, cuboid_bytes * (len(some) if some else 8)),
                )

        # Each a page if its cuboids were written once, and from several replicas at the same time.
        step = max(1, PAGE_BYTES // cuboid_bytes)
        parts = list(batched(mortons, step)) if mortons else [None]
        pieces = [(tier, part) for tier in self.tiers for part in parts]
        await bounded_map(gather, pieces, limit=PAGES_AT_ONCE)
        return payloads

    async def _gather(
        self,
        statement: Statement,
        values: tuple[object, ...],
        payloads: _Payloads,
        *,
        page_rows: int,
        size_bytes: int = PAGE_BYTES,
    ) -> None:
        """The payloads that one replica has of a selection, as far as there is room for them."""
        async for page in self._driver.pages(
            statement,
            values,
            consistency=Consistency.LOCAL_ONE,
            page_rows=page_rows,
            size_bytes=size_bytes,
        ):
            for morton, kind, write_id, part, payload in page:
                if payload is not None:
                    payloads[morton, kind, write_id, part] = payload
                    payloads.size_bytes += len(payload)
            if payloads.size_bytes > BUCKET_BYTES_AT_ONCE:
                return  # the headers tell what to do about it

    async def _complete(
        self, bucket: Bucket, heads: Sequence[Head], payloads: _Payloads, *, checked: bool
    ) -> list[CuboidRow] | None:
        """The rows of one cuboid with their payloads; None if one is nowhere to be found."""
        rows: list[CuboidRow] = []
        for head in heads:
            address = bucket.address(head.morton)
            row = _joined(head, address, [payloads.get(key) for key in _keys(head)])
            if row is not None and checked:
                row = await run_cpu(_verified, row, head, address)
            if row is None:
                self.counts["payloads_asked_again"] += 1
                row = await self._searched(bucket, head, address)
            if row is None:
                return None
            rows.append(row)
        return rows

    async def _searched(
        self, bucket: Bucket, head: Head, address: CuboidAddress
    ) -> CuboidRow | None:
        """A row whose payload one replica did not have whole: from a quorum, then from each.

        None if no replica has it whole, and all of them said so.
        """
        failures: list[StoreError] = []
        statement = await self._prepared(_PAYLOAD, self._tier_of(head.kind))
        keys = [(*bucket, *key) for key in _keys(head)]
        every = await self._driver.replicas(statement, keys[0])
        for consistency, first in (
            (Consistency.LOCAL_QUORUM, ""),
            *((Consistency.LOCAL_ONE, address_) for address_ in every),
        ):
            avoid = [other for other in every if first and other != first]
            parts = [await self._part(statement, key, consistency, avoid, failures) for key in keys]
            row = _joined(head, address, parts)
            if row is not None:
                row = await run_cpu(_verified, row, head, address)
            if row is not None:
                return row
            if any(part is not None for part in parts):
                self.counts["damaged_payloads"] += 1
                logger.warning("%s: a replica has a payload that fits no checksum", address)
        if failures:  # who did not answer may have it: neither gone nor damaged
            raise failures[-1]
        return None

    async def _part(
        self,
        statement: Statement,
        key: tuple[object, ...],
        consistency: Consistency,
        avoid: Sequence[str],
        failures: list[StoreError],
    ) -> bytes | None:
        """One part as some replica has it. One that fails is noted, for there are others."""
        try:
            page = await self._driver.page(
                statement, key, consistency=consistency, size_bytes=PART_BYTES, avoid=avoid
            )
        except StoreError as error:
            self.counts["replicas_failed"] += 1
            failures.append(error)
            return None
        return page.rows[0][0] if page.rows else None

    # -- statements

    async def _select(
        self, select: str, tier: Tier, bucket: Bucket, mortons: Sequence[int] | None
    ) -> tuple[Statement, tuple[object, ...]]:
        """A statement for all of a bucket, a range of it, or for what is scattered in it."""
        if mortons is None:
            return await self._prepared(select, tier), bucket
        first, last = mortons[0], mortons[-1]
        if last - first < 2 * len(mortons):
            return await self._prepared(select + _RANGE, tier), (*bucket, first, last)
        return await self._prepared(select + _SOME, tier), (*bucket, list(mortons))

    def _tier_of(self, kind: int) -> Tier:
        """Where rows of a kind are."""
        return self.tiers[0] if kind == WRITE else self.tiers[-1]

    async def _prepared(self, cql: str, tier: Tier) -> Statement:
        return await self._driver.prepare(cql, keyspace=tier.keyspace, data_centre=tier.data_centre)


def _refuse_crowded(heads: Mapping[int, Heads]) -> None:
    """Crowded if there are several cuboids, and too many bytes in all of their rows."""
    rows = (head for one in heads.values() for head in (*one.writes, *one.bases.values()))
    size = sum(head.size_bytes for head in rows)
    if size > BUCKET_BYTES_AT_ONCE and len(heads) > 1:
        raise Crowded(max(1, len(heads) * BUCKET_BYTES_AT_ONCE // (2 * size)))


def _note(cuboid: Heads, kind: int, write_id: bytes, header: bytes, address: CuboidAddress) -> None:
    """Put a row where it belongs."""
    if kind == POINTER:
        cuboid.pointer = Pointer.unpack(header)
        return
    head = unpack_header(header, kind=kind, write_id=write_id, address=address)
    if kind == WRITE:
        cuboid.writes.append(head)
    elif kind == BASE:
        cuboid.bases[write_id] = head
    else:
        raise CorruptValue(f"{address}: a row of the unknown kind {kind}")


def _keys(head: Head) -> list[tuple[int, int, bytes, int]]:
    return [(head.morton, head.kind, head.write_id, part) for part in range(head.parts)]


def _joined(head: Head, address: CuboidAddress, parts: Sequence[bytes | None]) -> CuboidRow | None:
    """A row from the parts of its payload, its front checked; None if it is not whole."""
    whole = [part for part in parts if part is not None]
    if len(whole) != head.parts:
        return None
    payload = whole[0] if head.parts == 1 else b"".join(whole)
    if len(payload) != head.size_bytes:
        return None
    try:
        header = codec.read_header(payload, identity=head.identity(address))
    except CorruptValue:
        return None
    return CuboidRow(head.write_id, head.op, head.corner_zyx, head.shape_zyx, payload, header)


def _verified(row: CuboidRow, head: Head, address: CuboidAddress) -> CuboidRow | None:
    """The row, if every byte of its payload fits."""
    try:
        codec.verify(row.payload, identity=head.identity(address))
    except CorruptValue:
        return None
    return row

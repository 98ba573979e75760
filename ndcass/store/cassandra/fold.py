"""Folds a bucket: turns the many writes of a cuboid into one base, invisibly to readers.

1. The watermark is so old that every acknowledged write up to it is at quorum by now. The base so
   far and exactly the writes up to the watermark are read; a write of that age that is not among
   them was never acknowledged.
2. Their merge is written as a new base, at quorum; between two tiers it is read back as well. Only
   then the pointers of the bucket move, in one transaction (``pointers.py``).
3. Readers take the base that the pointer names and the writes above its watermark.
4. What the pointers have left behind is swept much later (``sweep.py``).

If this ends anywhere, what is left is a base that no pointer names. Two who fold the same bucket do
twice the work; the transaction lets one of them win.

With two tiers writes are in ``ingest``, bases and pointers in ``archive``: every fold is a drain.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ndcass import assemble, codec
from ndcass.concurrency import run_cpu
from ndcass.errors import CorruptValue, StoreError, StoreUnavailable
from ndcass.merge import CuboidRow, WriteOp
from ndcass.store.base import CuboidAddress
from ndcass.store.cassandra.buckets import BucketReader, Heads
from ndcass.store.cassandra.pointers import Move, Pointers
from ndcass.store.cassandra.rows import BASE, Bucket, Head, Pointer, last_id_of, parts_of
from ndcass.store.cassandra.tiers import Windows
from ndcass.store.cassandra.writing import RowWriter
from ndcass.store.clock import WriteClock, milliseconds_of, wall_clock_ms

logger = logging.getLogger(__name__)

# Writes that one cuboid gives to one round: what is held in memory, beside one that is larger.
ROUND_BYTES = 32 << 20
ROUND_ROWS = 256
# Reading again what was swept by another meanwhile.
MOST_READS = 3

# What tests stop or look at; see `BucketFolder`.
OnStep = Callable[[str], None]
# Whether a channel is still in the catalogue.
IsLive = Callable[[int], Awaitable[bool]]


async def always_live(channel_id: int) -> bool:
    """For stores of cuboids without a catalogue."""
    return True


class CuboidFold(NamedTuple):
    """What a cuboid's next base is made of: its base so far and the writes up to a watermark."""

    heads: Heads
    writes: list[Head]
    watermark: bytes

    @property
    def rows(self) -> list[Head]:
        """In the order of merging."""
        base = self.heads.base
        return [base, *self.writes] if base is not None else self.writes


@dataclass(slots=True)
class Outcome:
    """What one round did to a bucket.

    Attributes
    ----------
    heads : mapping of Morton code to Heads
        As they were when the round began.
    moved : mapping of Morton code to Pointer
        The pointers that this round moved, committed.
    rows, size_bytes : int
        Writes that are in a base now, and their bytes.
    is_lost : bool
        Whether somebody else moved a pointer first, so that nothing happened.
    is_complete : bool
        Whether another round would find nothing to do.
    """

    heads: Mapping[int, Heads]
    moved: dict[int, Pointer] = field(default_factory=dict)
    rows: int = 0
    size_bytes: int = 0
    is_lost: bool = False
    is_complete: bool = True


class Pace:
    """Holds work back to so many bytes a second."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    async def spent(self, size_bytes: int) -> None:
        """Wait until what was spent is earned."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size_bytes / self._bytes_per_s
        await asyncio.sleep(self._free_at - now)


def watermark(windows: Windows, now_ms: int) -> bytes:
    """Up to which id everything acknowledged is at quorum, at a time of this process's clock."""
    return last_id_of(now_ms - settled_after_ms(windows))


def settled_after_ms(windows: Windows) -> int:
    """How old an id is before a fold takes its write in."""
    return int(windows.write_window_s * 1000) + 2 * windows.max_clock_skew_ms + 1


def plan_folds(
    heads: Mapping[int, Heads], *, up_to: bytes, more_than: int
) -> dict[int, CuboidFold]:
    """Which cuboids of a bucket to fold, and what of them in this round.

    Parameters
    ----------
    heads : mapping of Morton code to Heads
    up_to : bytes
        The watermark.
    more_than : int
        A cuboid with so many unfolded writes up to the watermark is left alone.
    """
    folds: dict[int, CuboidFold] = {}
    for morton, cuboid in heads.items():
        if cuboid.is_torn:  # another fold is at it right now
            continue
        writes = [head for head in cuboid.unfolded if head.write_id <= up_to]
        if len(writes) <= more_than:
            continue
        taken = _first_few(writes)
        is_all = len(taken) == len(writes)
        folds[morton] = CuboidFold(cuboid, taken, up_to if is_all else taken[-1].write_id)
    return folds


def _first_few(writes: list[Head]) -> list[Head]:
    """As many writes as one round takes, at least one."""
    size = 0
    for count, head in enumerate(writes[:ROUND_ROWS]):
        size += head.size_bytes
        if count and size > ROUND_BYTES:
            return writes[:count]
    return writes[:ROUND_ROWS]


class BucketFolder:
    """Folds buckets, one round at a time.

    Parameters
    ----------
    writer : RowWriter
        Of the archive.
    is_checked : bool
        Whether bases are read back before a pointer names them: what they replace is deleted from
        another tier.
    pace : Pace
    is_live : callable
        What is left of deleted channels is not touched: it would come to life again.
    now_ms : callable
        The wall clock, in milliseconds since 1970.
    on_step : callable
        Told what was just done, so that tests can stop there.
    """

    def __init__(
        self,
        reader: BucketReader,
        writer: RowWriter,
        pointers: Pointers,
        clock: WriteClock,
        windows: Windows,
        *,
        is_checked: bool,
        pace: Pace,
        is_live: IsLive = always_live,
        now_ms: Callable[[], int] = wall_clock_ms,
        on_step: OnStep = lambda step: None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._pointers = pointers
        self._clock = clock
        self._windows = windows
        self._is_checked = is_checked
        self._pace = pace
        self._is_live = is_live
        self._now_ms = now_ms
        self._on_step = on_step
        self.counts: Counter[str] = Counter()

    async def fold(self, bucket: Bucket, *, more_than: int, when_older_than_ms: int = 0) -> Outcome:
        """One round of a bucket.

        Parameters
        ----------
        more_than : int
            A cuboid with at most so many writes to fold is left alone; 0 drains the bucket.
        when_older_than_ms : int
            Nothing is done unless a write of the bucket is older than this.

        Raises
        ------
        StoreError
            If the store fails. Nothing that a reader sees has changed, or all of the round has.
        """
        now_ms = self._now_ms()
        heads = await self._reader.heads(bucket)
        self._on_step("headers read")
        outcome = Outcome(heads)
        if not _has_older(heads, now_ms - when_older_than_ms):
            return outcome
        up_to = watermark(self._windows, now_ms)
        folds = plan_folds(heads, up_to=up_to, more_than=more_than)
        if not folds or not await self._is_live(bucket.channel_id):
            return outcome
        moves: list[Move] = []
        for morton, fold in folds.items():
            base = await self._new_base(bucket, morton, fold)
            if base is not None:
                pointer = Pointer(base.write_id, fold.watermark, self._now_ms())
                moves.append(Move(fold.heads.pointer, pointer, base))
        if not moves or not await self._is_live(bucket.channel_id):
            return outcome
        self._on_step("bases written")
        if not await self._pointers.move(bucket, moves):
            self.counts["races_lost"] += 1
            outcome.is_lost, outcome.is_complete = True, False
            return outcome
        self._on_step("pointers moved")
        self._note(outcome, moves, folds)
        outcome.is_complete = all(move.new.watermark == up_to for move in moves)
        return outcome

    def _note(self, outcome: Outcome, moves: list[Move], folds: Mapping[int, CuboidFold]) -> None:
        for move in moves:
            fold = folds[move.base.morton]
            outcome.moved[move.base.morton] = move.new
            outcome.rows += len(fold.writes)
            outcome.size_bytes += sum(head.size_bytes for head in fold.writes)
        self.counts["cuboids"] += len(moves)
        self.counts["rows"] += outcome.rows
        self.counts["bytes"] += outcome.size_bytes
        self.counts["base_bytes"] += sum(move.base.size_bytes for move in moves)

    async def _new_base(self, bucket: Bucket, morton: int, fold: CuboidFold) -> Head | None:
        """Merge a cuboid and store the result; None if it must stay as it is."""
        address = bucket.address(morton)
        try:
            rows = await self._rows(bucket, fold)
            if rows is None:
                self.counts["cuboids_gone"] += 1
                return None
            cuboid_zyx = fold.rows[-1].cuboid_zyx
            head, payload = await run_cpu(_merged, address, rows, cuboid_zyx, self._clock.next_id())
        except CorruptValue as error:
            # What no node has whole stays what it is: an error to whoever reads it.
            self.counts["cuboids_damaged"] += 1
            logger.error("a cuboid cannot be folded: %s", error)
            return None
        await self._writer.send(bucket, [(head, payload)])
        self._on_step("base written")
        if self._is_checked:
            if not await self._reader.is_whole(bucket, head):
                raise StoreError(f"{address}: the archive does not return what was written to it")
            self._on_step("base read back")
        await self._pace.spent(len(payload) + sum(row.size_bytes for row in fold.rows))
        return head

    async def _rows(self, bucket: Bucket, fold: CuboidFold) -> list[CuboidRow] | None:
        """The rows with payloads, all checked; None if they were folded and swept by another."""
        for _ in range(MOST_READS):
            rows = await self._reader.complete(bucket, fold.rows)
            if rows is not None:
                return rows
            heads = (await self._reader.heads(bucket, [fold.rows[0].morton])).values()
            if any(cuboid.pointer == fold.heads.pointer for cuboid in heads):
                continue  # nobody folded it: is it damaged?
            return None
        raise CorruptValue(
            f"{bucket.address(fold.rows[0].morton)}: no node has a payload that fits its checksum"
        )


def _has_older(heads: Mapping[int, Heads], before_ms: int) -> bool:
    return any(
        milliseconds_of(cuboid.unfolded[0].write_id) <= before_ms
        for cuboid in heads.values()
        if cuboid.unfolded
    )


def _merged(
    address: CuboidAddress, rows: list[CuboidRow], cuboid_zyx: tuple[int, int, int], base_id: bytes
) -> tuple[Head, bytes]:
    """The base that the rows of a cuboid make, with its payload."""
    header = rows[-1].header
    assert isinstance(header, codec.Header)
    cuboid = assemble.merged(address, rows, cuboid_zyx=cuboid_zyx, dtype=header.dtype)
    head = Head(
        morton=address.morton,
        kind=BASE,
        write_id=base_id,
        op=WriteOp.BASE,
        corner_zyx=(0, 0, 0),
        shape_zyx=cuboid_zyx,
        cuboid_zyx=cuboid_zyx,
        size_bytes=0,
        parts=1,
    )
    payload = codec.encode(cuboid.voxels, cuboid.exceptions, identity=head.identity(address))
    return head._replace(size_bytes=len(payload), parts=parts_of(len(payload))), payload


def refuse_wrong_clock(fault: str) -> None:
    """A watermark from a clock that runs ahead would take acknowledged writes for lost ones."""
    if fault:
        raise StoreUnavailable(f"nothing is folded: {fault}")

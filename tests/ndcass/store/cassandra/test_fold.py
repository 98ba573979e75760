"""Folding is invisible: the numbered rules of docs/architecture.md, "Folding", on real nodes."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndcass.errors import (
    CorruptValue,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TransactionUnknown,
)
from ndcass.merge import WriteOp, apply
from ndcass.store.cassandra import buckets, fold
from ndcass.store.cassandra.driver import (
    Consistency,
    Driver,
    Page,
    Statement,
    TransactionResult,
)
from ndcass.store.cassandra.fold import settled_after_ms
from ndcass.store.cassandra.pointers import Move
from ndcass.store.cassandra.rows import (
    POINTER_ID,
    Bucket,
    Head,
    Pointer,
    pack_header,
    timestamp_us,
)
from ndcass.store.cassandra.tiers import Tiers, Windows
from ndcass.store.clock import WriteClock, wall_clock_ms
from tests.cassandra_nodes import CassandraNodes
from tests.folding import (
    BUCKET_BITS,
    DTYPE,
    SHAPE,
    Volume,
    channel_ids,
    labels,
    open_volume,
    read,
    same,
    write,
)

ROOT = Path(__file__).resolve().parents[4]
SOLID = np.full(SHAPE, 7, dtype=DTYPE)

# What a folder says that folds one cuboid of one bucket, and sweeps afterwards.
STEPS = [
    "headers read",
    "base written",
    "bases written",
    "pointers moved",
    "pointers settled",
    "writes deleted",
    "bases deleted",
]
STEPS_OF_TIERS = [*STEPS[:2], "base read back", *STEPS[2:]]


class Stopped(BaseException):
    """The folder ends here, as if it were killed."""


@pytest.fixture
async def volume(driver: Driver, tiers: Tiers) -> Volume:
    """A channel that nobody used before."""
    return await open_volume(driver, tiers, next(channel_ids))


async def another(volume: Volume, **options: Any) -> Volume:
    """The same channel, through another gateway; `options` as `open_volume` has them."""
    other = await open_volume(volume.driver, volume.cuboids.tiers, volume.channel_id, **options)
    other.model = volume.model
    other.clock.fold_ahead_ms = volume.clock.fold_ahead_ms
    other.clock.sweep_ahead_s = volume.clock.sweep_ahead_s
    return other


async def written_often(
    volume: Volume, *, mortons: Sequence[int] = (0, 1, 3), times: int = 4
) -> None:
    """Cuboids of one bucket that are made of several writes, also of exceptions."""
    rng = np.random.default_rng(len(mortons) + times)
    for _ in range(times):
        for morton in mortons:
            op = WriteOp(int(rng.integers(1, 7)))
            await volume.write(morton, labels(rng), op)


# -- what is folded


async def test_many_writes_become_one_base_that_reads_the_same(volume: Volume) -> None:
    await written_often(volume)
    await volume.fold_and_sweep()
    await volume.check()
    assert [await volume.rows(morton) for morton in (0, 1, 3)] == [(0, 1)] * 3


async def test_folded_again_and_again_it_has_one_base(volume: Volume) -> None:
    for _ in range(3):
        await written_often(volume, times=2)
        await volume.fold_and_sweep()
        await volume.check()
    assert await volume.rows() == (0, 1)


async def test_writes_within_the_window_stay_as_they_are(volume: Volume) -> None:
    await written_often(volume)
    await volume.fold()
    assert await volume.rows() == (4, 0)
    volume.clock.fold_ahead_ms = settled_after_ms(volume.cuboids.windows) - 5000
    await volume.fold()
    assert await volume.rows() == (4, 0)


async def test_only_cuboids_with_more_writes_than_a_few_are_folded(volume: Volume) -> None:
    await written_often(volume, mortons=[0], times=5)
    await written_often(volume, mortons=[1], times=4)
    volume.clock.pass_windows()
    await volume.fold(more_than=4)
    assert (await volume.rows(0))[1] == 1
    assert (await volume.rows(1))[1] == 0
    await volume.check()


async def test_a_cuboid_of_very_many_writes_is_folded_in_rounds(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "ROUND_ROWS", 3)
    await written_often(volume, mortons=[0], times=8)
    volume.clock.pass_windows()
    await volume.fold()
    assert volume.folding.counts["folded_cuboids"] == 3
    await volume.check()
    volume.clock.pass_windows()
    await volume.fold()
    assert await volume.rows() == (0, 1)
    await volume.check()


async def test_a_gateway_with_a_wrong_clock_folds_nothing(volume: Volume) -> None:
    await written_often(volume)
    volume.cuboids.clock_fault = "an hour ahead"
    volume.clock.pass_windows()
    with pytest.raises(StoreUnavailable, match="an hour ahead"):
        await volume.fold()
    assert await volume.rows() == (4, 0)


# -- whoever folds may be stopped anywhere


@pytest.mark.parametrize("step", STEPS_OF_TIERS)
async def test_a_folder_that_stops_anywhere_changes_nothing_and_another_completes_it(
    volume: Volume, step: str
) -> None:
    if step == "base read back" and volume.cuboids.tiers.is_single:
        return  # a base is read back between tiers only
    await written_often(volume, mortons=[0, 1])
    await volume.fold_and_sweep()
    await written_often(volume, mortons=[0, 1])
    volume.clock.pass_windows()

    def stop(said: str) -> None:
        if said == step:
            raise Stopped

    stopped = await another(volume, on_step=stop)
    with pytest.raises(Stopped):
        await stopped.fold_and_sweep()
    await volume.check()
    volume.clock.sweep_ahead_s = stopped.clock.sweep_ahead_s
    for _ in range(4):  # a fold, its sweep, and what the other left behind
        await volume.fold_and_sweep()
        await volume.check()
    assert [await volume.rows(morton) for morton in (0, 1)] == [(0, 1)] * 2


@pytest.mark.parametrize("step", ["base written", "pointers moved", "writes deleted"])
async def test_a_killed_process_changes_nothing_and_another_completes_it(
    volume: Volume, cassandra_cluster: CassandraNodes, step: str
) -> None:
    await written_often(volume, mortons=[0, 1])
    tiers = volume.cuboids.tiers
    asked = {
        "hosts": cassandra_cluster.contact_points,
        "port": cassandra_cluster.port,
        "ingest": tiers.ingest,
        "archive": tiers.archive,
        "channel": volume.channel_id,
        "step": step,
    }
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.folding", json.dumps(asked), cwd=ROOT
    )
    assert await killed.wait() == -signal.SIGKILL
    await volume.check()
    for _ in range(3):
        await volume.fold_and_sweep()
        await volume.check()
    assert [await volume.rows(morton) for morton in (0, 1)] == [(0, 1)] * 2


async def test_a_transaction_without_an_answer_is_settled_by_reading(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written_often(volume)
    volume.clock.pass_windows()
    transact = volume.driver.transact

    async def lose_the_answer(*args: Any, **options: Any) -> TransactionResult:
        await transact(*args, **options)
        raise TransactionUnknown("lost")

    with monkeypatch.context() as patch:
        patch.setattr(volume.driver, "transact", lose_the_answer)
        await volume.fold()
    assert volume.folding.counts["folded_cuboids"] == 3
    await volume.check()


async def test_a_transaction_that_never_arrived_is_no_fold(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written_often(volume)
    volume.clock.pass_windows()

    async def lose_the_question(*args: Any, **options: Any) -> TransactionResult:
        raise TransactionUnknown("lost")

    with monkeypatch.context() as patch:
        patch.setattr(volume.driver, "transact", lose_the_question)
        await volume.fold()
    assert volume.folding.counts["folded_cuboids"] == 0
    assert not volume.folding.sweeper.due()
    await volume.check()
    for _ in range(3):
        await volume.fold_and_sweep()
    assert await volume.rows() == (0, 1)
    await volume.check()


# -- two at once


async def before_its_move(volume: Volume, happens: Callable[[], Any]) -> None:
    """Have something happen after a folder wrote its bases and before its pointers move."""
    pointers = volume.folding.folder._pointers
    move = pointers.move
    done: list[int] = []

    async def late(bucket: Bucket, moves: Sequence[Move]) -> bool:
        if not done:
            done.append(1)
            await happens()
        return await move(bucket, moves)

    pointers.move = late  # type: ignore[method-assign]  # a pause where the process would have one


async def test_of_two_who_fold_the_same_bucket_one_wins(volume: Volume) -> None:
    await written_often(volume)
    volume.clock.pass_windows()
    other = await another(volume)
    await before_its_move(volume, other.fold)
    await volume.fold()
    assert volume.folding.counts["folded_races_lost"] == 1
    assert volume.folding.counts["folded_cuboids"] == 0
    assert other.folding.counts["folded_cuboids"] == 3
    await volume.check()
    for _ in range(3):
        await volume.fold_and_sweep()
        await volume.check()
    assert await volume.rows() == (0, 1)


async def test_many_who_fold_at_once_do_no_harm(volume: Volume) -> None:
    await written_often(volume)
    volume.clock.pass_windows()
    others = [await another(volume) for _ in range(3)]
    await asyncio.gather(*(other.fold() for other in others))
    assert sum(other.folding.counts["folded_rows"] for other in others) == 12
    await volume.check()


async def test_a_folder_that_slept_cannot_name_a_base_that_was_swept(volume: Volume) -> None:
    await written_often(volume, mortons=[0])
    volume.clock.pass_windows()
    other = await another(volume)

    async def sweep_the_new_base() -> None:
        for _ in range(3):
            other.clock.pass_windows()
            await other.fold(more_than=100)
        assert await other.rows() == (4, 0)

    await before_its_move(volume, sweep_the_new_base)
    await volume.fold(more_than=3)
    assert volume.folding.counts["folded_races_lost"] == 1
    await volume.check()


# -- what readers meet


async def test_rows_stay_for_a_read_window_after_the_fold(volume: Volume) -> None:
    await written_often(volume, mortons=[0])
    volume.clock.pass_windows()
    await volume.fold()
    volume.clock.sweep_ahead_s += volume.cuboids.windows.read_window_s - 1
    await volume.fold()
    assert await volume.rows() == (4, 1)
    await volume.check()
    volume.clock.sweep_ahead_s += 5
    await volume.fold()
    assert await volume.rows() == (0, 1)
    await volume.check()


async def test_the_wait_begins_anew_for_who_finds_what_another_left_behind(volume: Volume) -> None:
    await written_often(volume, mortons=[0])
    volume.clock.pass_windows()
    await volume.fold()
    other = await another(volume)
    other.clock.pass_windows()
    await other.fold()
    assert await other.rows() == (4, 1)
    other.clock.pass_windows()
    await other.fold()
    assert await other.rows() == (0, 1)


async def test_a_base_without_a_pointer_stays_while_its_fold_may_be_running(
    volume: Volume,
) -> None:
    await written_often(volume, mortons=[0])
    volume.clock.pass_windows()

    def stop(said: str) -> None:
        if said == "bases written":
            raise Stopped

    stopped = await another(volume, on_step=stop)
    with pytest.raises(Stopped):
        await stopped.fold()
    other = await another(volume)
    other.clock.sweep_ahead_s = 0
    await other.fold(more_than=100)
    other.clock.sweep_ahead_s = volume.cuboids.windows.read_window_s + 5
    await other.fold(more_than=100)
    assert await volume.rows() == (4, 1)
    other.clock.pass_windows()
    await other.fold(more_than=100)
    assert await volume.rows() == (4, 0)
    await volume.check()


async def test_late_copies_of_old_writes_are_ignored_counted_and_swept(volume: Volume) -> None:
    await written_often(volume, mortons=[0])
    volume.clock.pass_windows()
    await volume.fold()
    await write_late(volume, SOLID)
    await volume.check()
    assert volume.cuboids.counts["rows_ignored"] > 0
    volume.clock.pass_windows()
    await volume.fold()
    assert await volume.rows() == (0, 1)
    await volume.check()


async def test_late_copies_are_shadowed_by_the_sweep(volume: Volume) -> None:
    await written_often(volume, mortons=[0])
    await volume.fold_and_sweep()
    await write_late(volume, SOLID)
    assert await volume.rows() == (0, 1)
    await volume.check()


async def write_late(volume: Volume, voxels: Any) -> None:
    """A write of a minute ago arrives now: a hint, or a replica that was away."""
    late = await another(volume)
    late.cuboids.clock = WriteClock(lambda: wall_clock_ms() - 60_000)
    await write(late.cuboids, late.at(0), voxels, WriteOp.REPLACE)


async def test_a_pointer_without_its_base_is_an_error_and_never_zeros(volume: Volume) -> None:
    await written_often(volume, mortons=[0])
    pointer = Pointer(b"no base has this", b"\xff" * 16, 0)
    archive = volume.cuboids.tiers.archive
    await volume.driver.run(
        f"INSERT INTO {archive.keyspace}.cuboids (channel, pyramid, level, t, bucket, morton, kind,"
        " write_id, part, header) VALUES (%s, 0, 0, 0, 0, 0, 2, %s, 0, %s)",
        (volume.channel_id, POINTER_ID, pointer.pack()),
    )
    with pytest.raises(StoreError, match="folded faster"):
        await read(volume.cuboids, [volume.at(0)])
    assert volume.cuboids.counts["torn"] > 1
    await volume.fold_and_sweep()
    assert await volume.rows() == (4, 0)


async def test_a_bucket_with_a_damaged_header_stops_no_drain(volume: Volume) -> None:
    far = 8 << BUCKET_BITS
    for morton in (0, far):
        await volume.write(morton, SOLID)
    write_id = (await volume.cuboids.buckets.heads(volume.bucket(0)))[0].writes[0].write_id
    await damage(volume, 0, write_id, "header", b"damage" * 8)
    volume.clock.pass_windows()
    parts = [part async for part in volume.folding.fold_channel(volume.channel_id, drain=True)]
    assert [bool(part.damage) for part in parts] == [True, False]
    assert [part.cuboids for part in parts] == [0, 1]
    assert await volume.rows(far) == (1, 1)


async def damage(volume: Volume, morton: int, write_id: bytes, column: str, value: bytes) -> None:
    """Overwrite a cell of a write, on every replica."""
    tier = volume.cuboids.tiers.ingest
    statement = await volume.driver.prepare(
        f"UPDATE cuboids SET {column}=? WHERE channel=? AND pyramid=0 AND level=0 AND t=0 "
        "AND bucket=? AND morton=? AND kind=0 AND write_id=? AND part=0",
        keyspace=tier.keyspace,
        data_centre=tier.data_centre,
    )
    values = (value, volume.channel_id, volume.bucket(morton).bucket, morton, write_id)
    await volume.driver.execute(statement, values, consistency=Consistency.ALL)


async def test_a_damaged_write_is_not_folded_and_the_others_are(volume: Volume) -> None:
    await written_often(volume, mortons=[0, 1], times=3)
    ingest = volume.cuboids.tiers.ingest
    heads = await volume.cuboids.buckets.heads(volume.bucket(0))
    await volume.driver.run(
        f"INSERT INTO {ingest.keyspace}.cuboids (channel, pyramid, level, t, bucket, morton, kind,"
        " write_id, part, payload) VALUES (%s, 0, 0, 0, 0, 0, 0, %s, 0, %s)",
        (volume.channel_id, heads[0].writes[1].write_id, b"damage" * 20),
    )
    await volume.fold_and_sweep()
    assert await volume.rows(0) == (3, 0)
    assert await volume.rows(1) == (0, 1)
    assert volume.folding.counts["folded_cuboids_damaged"] > 0
    with pytest.raises(CorruptValue):
        await read(volume.cuboids, [volume.at(0)])


async def test_the_archive_must_return_what_was_written_before_a_pointer_moves(
    driver: Driver, two_tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await open_volume(driver, two_tiers, next(channel_ids))
    await written_often(volume, mortons=[0])
    volume.clock.pass_windows()
    merged = fold._merged

    def other_bytes(*args: Any) -> Any:
        head, payload = merged(*args)
        return head, payload[:-1] + bytes([payload[-1] ^ 1])

    monkeypatch.setattr(fold, "_merged", other_bytes)
    with pytest.raises(StoreError, match="does not return"):
        await volume.fold()
    await volume.check()
    assert volume.folding.counts["folded_cuboids"] == 0


@pytest.mark.parametrize("after_page", range(8))
async def test_a_fold_and_its_sweep_between_two_pages_are_invisible(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, after_page: int
) -> None:
    """Even a sweep that does not wait for readers: of each cuboid, what vanishes comes first."""
    monkeypatch.setattr(buckets, "HEADERS_A_PAGE", 1)
    await written_often(volume, mortons=[0], times=3)
    await volume.fold_and_sweep()
    await written_often(volume, mortons=[0], times=3)
    folder = await another(volume)
    page = volume.driver.page
    pages = 0

    async def page_and_fold(statement: Statement, *args: Any, **options: Any) -> Page:
        nonlocal pages
        found = await page(statement, *args, **options)
        if "header FROM" in statement.cql:
            pages += 1
            if pages == after_page + 1:
                await folder.fold_and_sweep()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(volume.driver, "page", page_and_fold)
        await volume.check()
    assert folder.folding.counts["folded_cuboids"] == (pages > after_page)
    await volume.check()


SHORT = Windows(max_clock_skew_ms=10, write_window_s=1.0, read_window_s=1.5)
RACED_S = 8.0


async def test_readers_see_every_acknowledged_write_while_all_is_folded_and_swept(
    driver: Driver, tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways with different clocks write in turn, a third one folds all the time.

    Pages have two headers, so that rows go and pointers come between two pages. On a busy machine
    the windows are over before an answer is whole: that is a refusal, never a wrong answer.
    """
    monkeypatch.setattr(buckets, "HEADERS_A_PAGE", 2)
    volume = await open_volume(driver, tiers, next(channel_ids), windows=SHORT)
    writers = [await another(volume, windows=SHORT) for _ in range(2)]
    for writer, offset_ms in zip(writers, (-5, 5), strict=True):
        writer.cuboids.clock = offset_clock(offset_ms)
    volume.clock.fold_ahead_ms = 5
    acknowledged = sent = answers = 0
    ended = asyncio.get_running_loop().time() + RACED_S

    def is_on() -> bool:
        return asyncio.get_running_loop().time() < ended

    async def keep_writing() -> None:
        nonlocal acknowledged, sent
        while is_on():
            sent += 1
            voxels = np.full(SHAPE, sent, dtype=DTYPE)
            with contextlib.suppress(StoreTimeout):
                await write(writers[sent % 2].cuboids, volume.at(0), voxels, WriteOp.REPLACE)
                acknowledged = sent
            await asyncio.sleep(0.03)

    async def keep_folding() -> None:
        while is_on():
            with contextlib.suppress(StoreTimeout):
                await volume.fold()

    async def keep_reading() -> None:
        nonlocal answers
        while is_on():
            least = acknowledged
            with contextlib.suppress(StoreTimeout):
                found = await read(writers[0].cuboids, [volume.at(0)])
                if least:
                    value = found[volume.at(0)].voxels
                    assert (value == value[0, 0, 0]).all()
                    assert least <= value[0, 0, 0] <= sent
                    answers += 1

    await asyncio.gather(keep_writing(), keep_folding(), keep_reading(), keep_reading())
    assert answers > 10
    counts = volume.folding.counts
    assert min(counts["folded_cuboids"], counts["swept_rows"], counts["swept_bases"]) > 1


def offset_clock(offset_ms: int) -> WriteClock:
    return WriteClock(lambda: wall_clock_ms() + offset_ms)


async def test_a_fold_changes_nothing_about_writes_of_a_clock_that_is_far_ahead(
    volume: Volume,
) -> None:
    await written_often(volume, mortons=[0])
    ahead = await another(volume)
    ahead.cuboids.clock = offset_clock(3_600_000)
    await write(ahead.cuboids, volume.at(0), SOLID[:1], corner=(1, 0, 0))
    await written_often(volume, mortons=[0])
    before = await read(volume.cuboids, [volume.at(0)])
    assert volume.cuboids.counts["ids_ahead"] == 1
    await volume.fold_and_sweep()
    after = await read(volume.cuboids, [volume.at(0)])
    assert same(before[volume.at(0)], after[volume.at(0)])
    assert await volume.rows() == (1, 1)


# -- a replica that is away


@pytest.mark.slow
async def test_a_replica_that_missed_the_fold_and_the_sweep_harms_nobody(
    volume: Volume, cassandra_cluster: CassandraNodes
) -> None:
    await written_often(volume)
    with cassandra_cluster.paused(cassandra_cluster.nodes[2]):
        await volume.fold_and_sweep()
        await volume.check()
    for _ in range(10):  # whichever two of the three answer
        await volume.check()
    await volume.fold_and_sweep()
    await volume.check()


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.slow
async def test_a_write_that_reached_one_replica_is_there_or_not_but_never_mixed(
    volume: Volume, cassandra_cluster: CassandraNodes, is_before: bool
) -> None:
    await written_often(volume, mortons=[0])
    head, payload = await unsent_row(volume, SOLID)
    if not is_before:
        volume.clock.pass_windows()
        await volume.fold()
    first, *others = cassandra_cluster.nodes
    with cassandra_cluster.paused(*others):
        await volume.driver.run(
            f"INSERT INTO {volume.cuboids.tiers.ingest.keyspace}.cuboids (channel, pyramid, level,"
            " t, bucket, morton, kind, write_id, part, header, payload) VALUES"
            " (%s, 0, 0, 0, 0, 0, 0, %s, 0, %s, %s) USING TIMESTAMP %s",
            (
                volume.channel_id,
                head.write_id,
                pack_header(head, volume.at(0)),
                payload,
                timestamp_us(head.write_id),
            ),
            address=first.client_address,
        )
    without = volume.model[volume.at(0)]
    allowed = [without, apply(without, WriteOp.MERGE, (0, 0, 0), SOLID)] if is_before else [without]
    for _ in range(6):
        found = (await read(volume.cuboids, [volume.at(0)]))[volume.at(0)]
        assert any(same(found, cuboid) for cuboid in allowed)
    volume.clock.pass_windows()
    await volume.fold()
    settled = (await read(volume.cuboids, [volume.at(0)]))[volume.at(0)]
    assert any(same(settled, cuboid) for cuboid in allowed)
    for _ in range(3):  # once it is folded everybody sees the same
        await volume.fold_and_sweep()
        assert same(settled, (await read(volume.cuboids, [volume.at(0)]))[volume.at(0)])


async def unsent_row(volume: Volume, voxels: Any) -> tuple[Head, bytes]:
    """A row as a gateway would send it that dies in the middle."""
    rows: list[tuple[Head, bytes]] = []

    class Caught:
        async def send(self, bucket: Bucket, sent: Sequence[tuple[Head, bytes]]) -> None:
            rows.extend(sent)

    dying = await another(volume)
    dying.cuboids.writer = Caught()  # type: ignore[assignment]
    await write(dying.cuboids, volume.at(0), voxels)
    return rows[0]


# -- all ops, folded anywhere

boxes = st.tuples(
    st.tuples(*(st.integers(0, size - 1) for size in SHAPE)),
    st.tuples(*(st.integers(1, size) for size in SHAPE)),
)
writes = st.tuples(
    st.integers(0, 2), st.sampled_from(list(WriteOp)[1:]), boxes, st.integers(0, 1000)
)
actions = st.lists(st.one_of(writes, st.just("fold"), st.just("wait")), min_size=4, max_size=24)


@given(todo=actions)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_written_and_folded_in_between_reads_as_the_serial_model(
    driver: Driver, tiers: Tiers, todo: list[Any]
) -> None:
    volume = await open_volume(driver, tiers, next(channel_ids))
    for action in todo:
        if action == "wait":
            volume.clock.pass_windows()
        elif action == "fold":
            await volume.fold()
            await volume.check()
        else:
            morton, op, (corner, wanted), seed = action
            shape = tuple(
                min(want, size - at) for want, size, at in zip(wanted, SHAPE, corner, strict=True)
            )
            voxels = labels(np.random.default_rng(seed), shape)
            await volume.write(morton, voxels, op, corner)
    await volume.check()
    await volume.fold_and_sweep()
    await volume.check()

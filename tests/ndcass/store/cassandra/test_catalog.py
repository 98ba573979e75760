import asyncio
import dataclasses
from typing import Any

import pytest

from ndcass.errors import Conflict, NotFound, StoreUnavailable
from ndcass.model import Channel
from ndcass.store.base import DELETE_JOB, JobState
from ndcass.store.cassandra.catalog import CassandraCatalog
from ndcass.store.cassandra.jobs import CassandraJobs
from ndcass.store.cassandra.tables import Tables
from tests.flaky_tables import APPLIED, LOST, FlakyTables
from tests.store_contract import channel, dataset, project, token


def opened(tables: Tables) -> tuple[CassandraCatalog, CassandraJobs]:
    jobs = CassandraJobs(tables)
    return CassandraCatalog(tables, jobs), jobs


@pytest.fixture
async def catalog(tables: Tables) -> CassandraCatalog:
    """With a dataset, a project and a token."""
    made, _ = opened(tables)
    await made.create_dataset(dataset())
    await made.create_project(project())
    await made.create_token(token())
    return made


class Counting(FlakyTables):
    """Counts reads by their statement."""

    async def rows(self, cql: str, *values: object, **options: Any) -> Any:  # as the base
        self.counts[cql.split(" FROM")[0]] += 1
        return await super().rows(cql, *values, **options)

    @property
    def confirmations(self) -> int:
        return self.counts["SELECT DISTINCT scope, version"]

    @property
    def others(self) -> int:
        return self.counts.total() - self.confirmations


async def test_what_is_cached_is_confirmed_by_one_small_read(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    await catalog.create_channel(channel())
    counting = Counting(tables)
    reader, _ = opened(counting)
    view = await reader.token_view("tok")
    counting.counts.clear()

    for _ in range(5):
        assert await reader.token_view("tok") is view

    assert (counting.confirmations, counting.others) == (5, 0)


async def test_requests_of_one_moment_share_a_confirmation(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    counting = Counting(tables)
    reader, _ = opened(counting)
    await reader.token_view("tok")
    counting.counts.clear()

    await asyncio.gather(*(reader.token_view("tok") for _ in range(50)))

    assert (counting.confirmations, counting.others) == (1, 0)


async def test_another_process_sees_every_change_at_once(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    reader, _ = opened(tables)
    user = await catalog.add_user("anna")
    await catalog.add_key(user.id, b"k" * 32)
    for _ in range(3):
        stored = await catalog.create_channel(channel())
        assert (await reader.token_view("tok")).channels == (stored,)
        assert await reader.is_live(stored.id)
        assert await reader.user_of_key(b"k" * 32) == user
        await catalog.delete_channel("proj", "em")
        assert (await reader.token_view("tok")).channels == ()
        assert not await reader.is_live(stored.id)
    await catalog.revoke_keys(user.id)
    assert await reader.user_of_key(b"k" * 32) is None
    await catalog.delete_token("tok")
    with pytest.raises(NotFound):
        await reader.token_view("tok")


async def test_a_token_that_moves_is_never_missing(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    reader, _ = opened(tables)
    moves = 6

    async def move() -> None:
        for number in range(moves):
            name = f"p{number}"
            await catalog.create_project(project(name))
            await catalog.update_token(token(of=name))
            if number:
                await catalog.delete_project(f"p{number - 1}")

    moving = asyncio.create_task(move())
    while not moving.done():
        view = await reader.token_view("tok")
        assert view.project.name == view.token.project
    await moving
    assert (await reader.token_view("tok")).project.name == f"p{moves - 1}"


async def test_two_who_change_different_fields_do_not_undo_each_other(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    stored = await catalog.create_channel(channel())
    other, _ = opened(tables)

    async def change(through: CassandraCatalog, **fields: Any) -> None:
        while True:
            old = await through.channel("proj", "em")
            try:
                await through.update_channel(dataclasses.replace(old, **fields), expected=old)
            except Conflict:
                continue
            return

    await asyncio.gather(
        change(catalog, readonly=1),
        change(other, channel_description="mine"),
        change(catalog, resolution=2),
    )

    expected = dataclasses.replace(stored, readonly=1, channel_description="mine", resolution=2)
    assert await catalog.channel("proj", "em") == expected


@pytest.mark.parametrize("fault", [APPLIED, LOST])
async def test_a_name_whose_answer_is_lost_is_not_taken_by_somebody_else(
    tables: Tables, catalog: CassandraCatalog, fault: str
) -> None:
    flaky, _ = opened(FlakyTables(tables, fault))

    stored = await flaky.create_channel(channel())

    assert await catalog.channels("proj") == [stored]
    assert await catalog.is_live(stored.id)


# -- channels that are gone


class Crashing(FlakyTables):
    """Stops with the first job that is to be submitted, as a process that dies."""

    async def transact(self, *entries: Any) -> Any:
        if entries[0][0].startswith("INSERT INTO jobs"):
            raise StoreUnavailable("gone")
        return await super().transact(*entries)


async def deleted_by_one_that_died(tables: Tables, catalog: CassandraCatalog) -> Channel:
    stored = await catalog.create_channel(channel())
    dying, jobs = opened(Crashing(tables))
    await dying.delete_channel("proj", "em")
    assert list(await jobs.jobs()) == []
    return stored


async def test_a_crash_between_the_deletion_and_its_job_loses_nothing(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    stored = await deleted_by_one_that_died(tables, catalog)
    survivor, jobs = opened(tables)

    assert not await survivor.is_live(stored.id)
    assert await survivor.submit_left_over() == 1
    [job] = await jobs.jobs()
    assert (job.kind, job.channel_id, job.state) == (DELETE_JOB, stored.id, JobState.PENDING)
    assert await survivor.submit_left_over() == 0


async def test_several_survivors_submit_one_job(tables: Tables, catalog: CassandraCatalog) -> None:
    await deleted_by_one_that_died(tables, catalog)
    survivors = [opened(tables) for _ in range(3)]

    await asyncio.gather(*(one.submit_left_over() for one, _ in survivors))

    assert len(await survivors[0][1].jobs()) == 1


async def test_a_job_that_has_ended_is_not_submitted_again(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    class DiesLater(FlakyTables):
        async def transact(self, *entries: Any) -> Any:
            if entries[0][0].startswith("DELETE FROM catalog"):
                raise StoreUnavailable("gone")
            return await super().transact(*entries)

    await catalog.create_channel(channel())
    dying, _ = opened(DiesLater(tables))
    await dying.delete_channel("proj", "em")
    survivor, jobs = opened(tables)
    job = await jobs.claim([DELETE_JOB], owner="w", lease_s=60)
    assert job is not None
    await jobs.finish(job.id, owner="w")

    assert await survivor.submit_left_over() == 1
    assert [j.state for j in await jobs.jobs()] == [JobState.SUCCESS]


async def test_the_counter_of_a_channel_goes_with_it_and_not_with_its_id(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    stored = await catalog.create_channel(channel())
    await catalog.reserve_ids(stored.id, 7)
    renewed = await catalog.update_channel(stored, new_id=True)
    assert await tables.rows("SELECT counter, last FROM object_ids") == [(stored.id, 7)]

    await catalog.delete_channel("proj", "em")

    assert renewed.id != stored.id
    assert list(await tables.rows("SELECT counter FROM object_ids")) == []


async def test_renaming_a_channel_frees_its_name(catalog: CassandraCatalog) -> None:
    stored = await catalog.create_channel(channel(default=True))
    renamed = dataclasses.replace(stored, channel_name="new")

    assert await catalog.update_channel(renamed) == renamed

    assert await catalog.channels("proj") == [renamed]
    other = await catalog.create_channel(channel(default=True))
    assert await catalog.channels("proj") == [
        other,
        dataclasses.replace(renamed, default=False),
    ]


@pytest.mark.parametrize("name", ["\ud800", "x" * 100_000, ""])
async def test_names_that_cannot_be_are_not_found(catalog: CassandraCatalog, name: str) -> None:
    for call in (
        catalog.dataset(name),
        catalog.project(name),
        catalog.token(name),
        catalog.token_view(name),
        catalog.channel("proj", name),
        catalog.channel(name, "em"),
        catalog.user(name),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert len(str(caught.value)) < 200
    assert list(await catalog.channels(name)) == []


@pytest.mark.parametrize("number", [-1, 1 << 63, 1 << 80])
async def test_ids_that_cannot_be_are_not_found(catalog: CassandraCatalog, number: int) -> None:
    assert not await catalog.is_live(number)
    assert await catalog.revoke_keys(number) == 0
    for call in (catalog.user_of_id(number), catalog.reserve_ids(number, 1)):
        with pytest.raises(NotFound):
            await call


async def test_a_large_dataset_goes_in_one_change(
    tables: Tables, catalog: CassandraCatalog
) -> None:
    await asyncio.gather(*(catalog.create_channel(channel(f"c{number}")) for number in range(40)))
    version = await catalog._partition.version()
    assert version is not None

    await catalog.delete_dataset("brain")

    assert await catalog._partition.version() == version + 1
    kinds = {row[0] for row in await tables.rows("SELECT kind FROM catalog")}
    assert kinds == {"change"}
    _, jobs = opened(tables)
    assert len(await jobs.jobs()) == 40

"""What the embedded catalogue promises beyond the contract: its cache, and several processes."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ndcass.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from ndcass.model import Channel, Dataset, Project, Token
from ndcass.store.base import DELETE_JOB, StoredObject
from ndcass.store.embedded import EmbeddedStores, catalog, open_embedded

KEY = b"k" * 32


def a_channel(name: str, **fields: Any) -> Channel:  # whatever the fields of a channel hold
    return Channel(
        id=0,
        project="proj",
        channel_name=name,
        channel_type="image",
        channel_datatype="uint8",
        **fields,
    )


async def fill(stores: EmbeddedStores) -> Channel:
    user = await stores.catalog.add_user("anna")
    await stores.catalog.add_key(user.id, KEY)
    await stores.catalog.create_dataset(Dataset("brain", 10, 10, 10, user.id))
    await stores.catalog.create_project(Project("proj", user.id, "brain"))
    await stores.catalog.create_token(Token("tok", user.id, "proj"))
    return await stores.catalog.create_channel(a_channel("em"))


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[EmbeddedStores]:
    opened = await open_embedded(tmp_path)
    yield opened
    await opened.close()


async def names_of(stores: EmbeddedStores) -> list[str]:
    return [channel.name for channel in (await stores.catalog.token_view("tok")).channels]


async def received(pipe: Connection) -> Any:  # whatever the other process sends
    """The next message of another process, which may have died instead."""
    assert await asyncio.to_thread(pipe.poll, 60)
    return pipe.recv()


# -- the cache


async def test_what_did_not_change_is_answered_without_the_database(
    stores: EmbeddedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await fill(stores)

    async def ask() -> tuple[object, ...]:
        return (
            await stores.catalog.token_view("tok"),
            await stores.catalog.is_live(channel.id),
            await stores.catalog.user_of_key(KEY),
            await stores.catalog.user_of_key(b"unknown"),
        )

    first = await ask()

    async def fail(func: object) -> None:
        raise AssertionError("a change of thread")

    monkeypatch.setattr(stores.catalog._database, "read", fail)
    assert await ask() == first


async def test_objects_labels_jobs_and_ids_leave_the_cache_alone(
    stores: EmbeddedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await fill(stores)
    view = await stores.catalog.token_view("tok")
    await stores.objects.put(channel.id, [StoredObject(1, {"a": 1})])
    await stores.labels.append(channel.id, 0, 0, {1: [1]})
    await stores.jobs.submit("fold", channel.id, {})
    await stores.catalog.reserve_ids(channel.id, 5)
    monkeypatch.setattr(stores.catalog._database, "read", None)
    assert await stores.catalog.token_view("tok") is view


async def test_changes_of_this_process_are_seen_at_once(stores: EmbeddedStores) -> None:
    channel = await fill(stores)
    assert await names_of(stores) == ["em"]
    assert await stores.catalog.is_live(channel.id)
    await stores.catalog.delete_channel("proj", "em")
    assert await names_of(stores) == []
    assert not await stores.catalog.is_live(channel.id)
    await stores.catalog.create_channel(a_channel("em"))
    assert await names_of(stores) == ["em"]
    assert not await stores.catalog.is_live(channel.id)
    assert await stores.catalog.user_of_key(KEY) is not None
    await stores.catalog.revoke_keys(1)
    assert await stores.catalog.user_of_key(KEY) is None


def _change_on_demand(folder: str, pipe: Connection) -> None:
    async def work() -> None:
        stores = await open_embedded(Path(folder))
        for n in range(pipe.recv()):
            await stores.catalog.delete_channel("proj", f"c{n}")
            await stores.catalog.create_channel(a_channel(f"c{n + 1}"))
            pipe.send(n + 1)  # acknowledged
            pipe.recv()
        await stores.catalog.revoke_keys(1)
        pipe.send("revoked")
        await stores.close()

    asyncio.run(work())


async def test_changes_of_another_process_are_seen_at_once(
    stores: EmbeddedStores, tmp_path: Path
) -> None:
    await fill(stores)
    await stores.catalog.delete_channel("proj", "em")
    channel = await stores.catalog.create_channel(a_channel("c0"))
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    changer = context.Process(target=_change_on_demand, args=(str(tmp_path), theirs), daemon=True)
    changer.start()
    theirs.close()  # so that its end shows if it dies
    assert await stores.catalog.is_live(channel.id)
    ours.send(30)
    for _ in range(30):
        number = await received(ours)
        [seen] = (await stores.catalog.token_view("tok")).channels
        assert seen.name == f"c{number}"
        assert not await stores.catalog.is_live(channel.id)
        channel = seen
        assert await stores.catalog.is_live(channel.id)
        assert await stores.catalog.user_of_key(KEY)
        ours.send("go on")  # from here on the channel may be gone at any moment
    assert await received(ours) == "revoked"
    assert await stores.catalog.user_of_key(KEY) is None
    await asyncio.to_thread(changer.join, 60)
    assert changer.exitcode == 0


async def test_an_answer_overtaken_by_a_change_is_not_kept(
    stores: EmbeddedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(stores)
    read = stores.catalog._database.read
    overtaken = asyncio.Event()

    async def slow_read(func: Callable[[Any], Any]) -> Any:  # as Database.read
        answer = await read(func)
        await overtaken.wait()
        return answer

    monkeypatch.setattr(stores.catalog._database, "read", slow_read)
    asked = asyncio.create_task(names_of(stores))
    await asyncio.sleep(0.05)
    monkeypatch.setattr(stores.catalog._database, "read", read)
    await stores.catalog.create_channel(a_channel("labels"))
    assert await names_of(stores) == ["em", "labels"]
    overtaken.set()
    assert await asked == ["em"]  # what was true when it asked
    assert await names_of(stores) == ["em", "labels"]


async def test_the_cache_is_bounded(
    stores: EmbeddedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(stores)
    monkeypatch.setattr(catalog, "CACHE_ENTRIES", 8)
    for n in range(50):
        assert await stores.catalog.user_of_key(bytes([n])) is None
    assert len(stores.catalog._cache) == 8
    assert await names_of(stores) == ["em"]


# -- ids


async def test_a_channel_id_is_not_given_again_after_reopening(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    channel = await fill(stores)
    await stores.catalog.delete_channel("proj", "em")
    await stores.close()
    stores = await open_embedded(tmp_path)
    assert (await stores.catalog.create_channel(a_channel("em"))).id == channel.id + 1
    await stores.close()


def _reserve(folder: str, channel_id: int, pipe: Connection) -> None:
    async def work() -> None:
        stores = await open_embedded(Path(folder))
        got: list[int] = []
        for n in range(50):
            first = await stores.catalog.reserve_ids(channel_id, 1 + n % 3)
            got += range(first, first + 1 + n % 3)
        pipe.send(got)
        await stores.close()

    asyncio.run(work())


async def test_no_two_processes_get_an_object_id(stores: EmbeddedStores, tmp_path: Path) -> None:
    channel = await fill(stores)
    context = multiprocessing.get_context("spawn")
    pipes = [multiprocessing.Pipe() for _ in range(4)]
    askers = [
        context.Process(target=_reserve, args=(str(tmp_path), channel.id, theirs), daemon=True)
        for _, theirs in pipes
    ]
    for asker, (_, theirs) in zip(askers, pipes, strict=True):
        asker.start()
        theirs.close()  # so that its end shows if it dies
    got = [number for ours, _ in pipes for number in await received(ours)]
    for asker in askers:
        await asyncio.to_thread(asker.join, 60)
        assert asker.exitcode == 0
    assert sorted(got) == list(range(1, len(got) + 1))


async def test_chosen_ids_raise_the_counter_and_never_lower_it(stores: EmbeddedStores) -> None:
    channel = await fill(stores)
    await stores.catalog.raise_ids(channel.id, 41)
    await stores.catalog.raise_ids(channel.id, 7)
    assert await stores.catalog.reserve_ids(channel.id, 2) == 42
    assert await stores.catalog.reserve_ids(channel.id, 1) == 44


async def test_ids_have_64_bits_and_then_end(stores: EmbeddedStores) -> None:
    channel = await fill(stores)
    await stores.catalog.raise_ids(channel.id, (1 << 64) - 3)
    with pytest.raises(Conflict, match="fewer than 3"):
        await stores.catalog.reserve_ids(channel.id, 3)
    assert await stores.catalog.reserve_ids(channel.id, 2) == (1 << 64) - 2
    with pytest.raises(Conflict):
        await stores.catalog.reserve_ids(channel.id, 1)
    for wrong in (-1, 1 << 64):
        with pytest.raises(InvalidRequest):
            await stores.catalog.raise_ids(channel.id, wrong)


async def test_ids_of_a_deleted_channel_are_not_found(stores: EmbeddedStores) -> None:
    channel = await fill(stores)
    await stores.catalog.delete_channel("proj", "em")
    with pytest.raises(NotFound):
        await stores.catalog.reserve_ids(channel.id, 1)
    with pytest.raises(NotFound):
        await stores.catalog.raise_ids(channel.id, 1)


# -- names and values


@pytest.mark.parametrize("name", ["\ud800", "x\0y", "x" * 1_000_000])
async def test_names_that_nothing_can_have_are_not_found(stores: EmbeddedStores, name: str) -> None:
    await fill(stores)
    for lookup in (
        stores.catalog.dataset(name),
        stores.catalog.project(name),
        stores.catalog.channel("proj", name),
        stores.catalog.channel(name, "em"),
        stores.catalog.token(name),
        stores.catalog.token_view(name),
        stores.catalog.user(name),
        stores.catalog.delete_dataset(name),
    ):
        with pytest.raises(NotFound) as raised:
            await lookup
        assert len(str(raised.value)) < 200
    assert list(await stores.catalog.channels(name)) == []


async def test_numbers_that_no_id_has_are_not_found(stores: EmbeddedStores) -> None:
    assert not await stores.catalog.is_live(1 << 70)
    with pytest.raises(NotFound):
        await stores.catalog.user_of_id(1 << 70)
    with pytest.raises(NotFound):
        await stores.catalog.reserve_ids(1 << 70, 1)


async def test_odd_texts_and_large_numbers_survive(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    await fill(stores)
    text = "odd \N{BRAIN}, \0, \"quotes', \N{SNOWMAN}"
    largest = (1 << 63) - 1
    dataset = Dataset("d", largest, 1, 1, 1, dataset_description=text, xvoxelres=0.1)
    await stores.catalog.create_dataset(dataset)
    stored = await stores.catalog.create_channel(
        a_channel("odd", channel_description=text, header=text, default=True, endtime=largest)
    )
    await stores.close()
    stores = await open_embedded(tmp_path)
    assert await stores.catalog.dataset("d") == dataset
    assert await stores.catalog.channel("proj", "odd") == stored
    assert (stored.header, stored.default, stored.endtime) == (text, True, largest)
    await stores.close()


async def test_a_user_name_that_is_no_text_is_refused(stores: EmbeddedStores) -> None:
    with pytest.raises(InvalidRequest):
        await stores.catalog.add_user("\ud800")
    assert list(await stores.catalog.users()) == []


# -- deletes


async def test_deleting_a_dataset_submits_a_job_for_every_channel(stores: EmbeddedStores) -> None:
    em = await fill(stores)
    labels = await stores.catalog.create_channel(a_channel("labels"))
    await stores.catalog.delete_dataset("brain")
    jobs = await stores.jobs.jobs()
    assert {(job.kind, job.channel_id) for job in jobs} == {
        (DELETE_JOB, em.id),
        (DELETE_JOB, labels.id),
    }


async def test_a_delete_that_fails_submits_nothing(stores: EmbeddedStores) -> None:
    await fill(stores)
    with pytest.raises(NotFound):
        await stores.catalog.delete_channel("proj", "nothing")
    assert list(await stores.jobs.jobs()) == []


async def test_a_refused_change_leaves_the_default_channel(stores: EmbeddedStores) -> None:
    await fill(stores)
    await stores.catalog.create_channel(a_channel("labels", default=True))
    with pytest.raises(AlreadyExists):
        await stores.catalog.create_channel(a_channel("em", default=True))
    view = await stores.catalog.token_view("tok")
    default = view.channel("default")
    assert default is not None
    assert default.name == "labels"

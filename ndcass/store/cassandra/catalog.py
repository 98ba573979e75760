"""The catalogue on Cassandra: datasets, projects, channels, tokens, users and their keys.

What every request asks is cached in the process, with the version of the catalogue it was read at,
and used only if one small read shows that this is still the version.
"""

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from typing import TypeVar, cast

from ndcass.concurrency import bounded_map
from ndcass.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, StoreError
from ndcass.model import Channel, Dataset, Project, Resource, Token, TokenView, User
from ndcass.store.base import DELETE_JOB, MAX_OBJECT_ID
from ndcass.store.cassandra.jobs import CassandraJobs, NewJob
from ndcass.store.cassandra.names import (
    MAX_ID,
    SHOWN,
    DeadChannel,
    all_of,
    as_name,
    channel_key,
    channels_of,
    dead_key,
    drop_keys,
    known,
    live_key,
    refuse_changed,
    refuse_taken,
    replace,
    store_channel,
    user_key,
    user_of_id,
    view_of,
)
from ndcass.store.cassandra.object_ids import ObjectIds
from ndcass.store.cassandra.partition import Change, Fields, Key, Partition, Reads
from ndcass.store.cassandra.tables import Tables, batched

T = TypeVar("T")

log = logging.getLogger(__name__)

# Answers kept: a few KB each at most, and one token is asked for again and again.
CACHE_ENTRIES = 4096
# Jobs of deleted channels that are submitted at once.
SUBMITTED_AT_ONCE = 100
# Counters of theirs that are deleted at once, each a transaction on a partition of its own.
FORGOTTEN_AT_ONCE = 8


class CassandraCatalog:
    """The `Catalog` in one partition of a table."""

    def __init__(self, tables: Tables, jobs: CassandraJobs) -> None:
        self._partition = Partition(tables)
        self._object_ids = ObjectIds(tables)
        self._jobs = jobs
        # Answers, and the version at which each was read.
        self._cache: dict[Hashable, tuple[int, object]] = {}

    # -- datasets

    async def create_dataset(self, dataset: Dataset) -> None:
        """As `Catalog.create_dataset`."""

        async def create(change: Change) -> None:
            await refuse_taken(change, Key("dataset", dataset.name))
            change.put(Key("dataset", dataset.name), dataset.to_json())

        await self._partition.change(create)

    async def dataset(self, name: str) -> Dataset:
        """As `Catalog.dataset`."""
        return Dataset(**await known(self._partition.reads(), Key("dataset", name)))

    async def datasets(self) -> Sequence[Dataset]:
        """As `Catalog.datasets`."""
        return await all_of(self._partition.reads(), Dataset)

    async def update_dataset(
        self, dataset: Dataset, *, expected: Dataset | None = None, new_channel_ids: bool = False
    ) -> None:
        """As `Catalog.update_dataset`."""

        async def update(change: Change) -> list[DeadChannel]:
            await replace(change, Key("dataset", dataset.name), dataset, expected)
            if not new_channel_ids:
                return []
            channels = [
                channel
                for project in await all_of(change, Project)
                if project.dataset == dataset.name
                for channel in await channels_of(change, project.name)
            ]
            return [
                await self._store_renewed(change, old=channel, new=channel)
                for channel in sorted(channels, key=lambda channel: channel.id)
            ]

        await self._submit(await self._partition.change(update))

    async def delete_dataset(self, name: str) -> None:
        """As `Catalog.delete_dataset`."""

        async def delete(change: Change) -> list[DeadChannel]:
            await known(change, Key("dataset", name))
            change.drop(Key("dataset", name))
            mine = {p.name for p in await all_of(change, Project) if p.dataset == name}
            return await self._drop_projects(change, mine)

        await self._submit(await self._partition.change(delete))

    # -- projects

    async def create_project(self, project: Project) -> None:
        """As `Catalog.create_project`."""

        async def create(change: Change) -> None:
            await known(change, Key("dataset", project.dataset))
            await refuse_taken(change, Key("project", project.name))
            change.put(Key("project", project.name), project.to_json())
            change.put(Key("channel", project.name), {})

        await self._partition.change(create)

    async def project(self, name: str) -> Project:
        """The project of that name; NotFound."""
        return Project(**await known(self._partition.reads(), Key("project", name)))

    async def projects(self, dataset: str | None = None) -> Sequence[Project]:
        """All projects or those of a dataset, by name."""
        found = await all_of(self._partition.reads(), Project)
        return [project for project in found if dataset in (None, project.dataset)]

    async def update_project(self, project: Project, *, expected: Project | None = None) -> None:
        """Replace the one of that name; NotFound."""

        async def update(change: Change) -> None:
            await replace(change, Key("project", project.name), project, expected)
            await known(change, Key("dataset", project.dataset))

        await self._partition.change(update)

    async def delete_project(self, name: str) -> None:
        """With its tokens and channels; NotFound."""

        async def delete(change: Change) -> list[DeadChannel]:
            await known(change, Key("project", name))
            return await self._drop_projects(change, {name})

        await self._submit(await self._partition.change(delete))

    async def _drop_projects(self, change: Change, names: Collection[str]) -> list[DeadChannel]:
        dead = []
        for name in names:
            for channel in await channels_of(change, name):
                change.drop(Key("channel", name, channel.name))
                dead.append(await self._drop_id(change, channel.id))
            change.drop(Key("channel", name))
            change.drop(Key("project", name))
        for token in await all_of(change, Token):
            if token.project in names:
                change.drop(Key("token", token.name))
        return dead

    # -- channels

    async def create_channel(self, channel: Channel) -> Channel:
        """As `Catalog.create_channel`; the id of `channel` is a placeholder."""

        async def create(change: Change) -> Channel:
            await known(change, Key("project", channel.project))
            await refuse_taken(change, Key("channel", channel.project, channel.name))
            stored = dataclasses.replace(channel, id=change.new_channel_id())
            await store_channel(change, stored, counter=stored.id)
            return stored

        return await self._partition.change(create)

    async def channel(self, project: str, name: str) -> Channel:
        """The channel of that name; NotFound."""
        return Channel(**await known(self._partition.reads(), channel_key(project, name)))

    async def channels(self, project: str) -> Sequence[Channel]:
        """Those of a project, by name."""
        return await channels_of(self._partition.reads(), project)

    async def update_channel(
        self, channel: Channel, *, expected: Channel | None = None, new_id: bool = False
    ) -> Channel:
        """As `Catalog.update_channel`."""

        async def update(change: Change) -> tuple[Channel, list[DeadChannel]]:
            live = await change.row(live_key(channel.id))
            if live is None:
                raise NotFound(f"there is no channel {channel.name[:SHOWN]}")
            old_key = Key("channel", live["project"], live["name"])
            old = Channel(**await known(change, old_key))
            refuse_changed(old, expected)
            await known(change, Key("project", channel.project))
            key = Key("channel", channel.project, channel.name)
            if key != old_key:
                await refuse_taken(change, key)
                change.drop(old_key)
            if new_id:
                dead = [await self._store_renewed(change, old=old, new=channel)]
                return dataclasses.replace(channel, id=change.last_channel_id), dead
            await store_channel(change, channel, counter=live["counter"])
            return channel, []

        stored, dead = await self._partition.change(update)
        await self._submit(dead)
        return stored

    async def delete_channel(self, project: str, name: str) -> None:
        """As `Catalog.delete_channel`."""

        async def delete(change: Change) -> list[DeadChannel]:
            key = channel_key(project, name)
            channel = Channel(**await known(change, key))
            change.drop(key)
            return [await self._drop_id(change, channel.id)]

        await self._submit(await self._partition.change(delete))

    async def _store_renewed(self, change: Change, *, old: Channel, new: Channel) -> DeadChannel:
        """Store `new` in the place of `old`, under an id never used before."""
        live = await known(change, live_key(old.id))
        dead = await self._drop_id(change, old.id, keeps_counter=True)
        stored = dataclasses.replace(new, id=change.new_channel_id())
        await store_channel(change, stored, counter=live["counter"], instead_of=old.id)
        return dead

    async def _drop_id(
        self, change: Change, channel_id: int, *, keeps_counter: bool = False
    ) -> DeadChannel:
        """Give up an id, and in the same change note the job for what is stored under it."""
        live = await known(change, live_key(channel_id))
        counter = None if keeps_counter else live["counter"]
        dead = DeadChannel(channel_id, self._jobs.new_id(), counter)
        change.drop(live_key(channel_id))
        change.put(dead_key(channel_id), {"job": dead.job_id, "counter": counter})
        return dead

    # -- jobs of channels that are gone

    async def submit_left_over(self) -> int:
        """Submit the jobs that whoever deleted a channel noted, and died before it submitted them.

        Returns
        -------
        int
            How many there were. Several may do it at once: a job has its id already.
        """
        rows = await self._partition.reads().kind("dead")
        await self._submit(
            [
                DeadChannel(int(channel_id, 16), fields["job"], fields["counter"])
                for channel_id, fields in rows.items()
            ]
        )
        return len(rows)

    async def delete_unknown(self, channel_ids: Collection[int]) -> int:
        """Submit a job for every id of a deleted channel that has none under way; how many.

        The ids are those that something is stored under: read before this is called, since a
        channel that is made afterwards is unknown to nobody. One that this catalogue never gave
        out stays as it is, for then the catalogue is older than what is stored.
        """
        if not channel_ids:
            return 0
        last_given = await self._partition.last_channel_id()
        submitted = 0
        for channel_id in channel_ids:
            if channel_id > last_given or await self.is_live(channel_id):
                continue
            if not await self._jobs.has_delete(channel_id):
                await self._jobs.submit(DELETE_JOB, channel_id, {})
                submitted += 1
        return submitted

    async def _submit(self, dead: Sequence[DeadChannel]) -> None:
        """Submit jobs that were noted; what fails is left to `submit_left_over`.

        The change is made: its caller must not hear that it failed.
        """
        try:
            for some in batched(dead, SUBMITTED_AT_ONCE):
                jobs = [NewJob(d.job_id, DELETE_JOB, d.channel_id, {}) for d in some]
                await self._jobs.submit_all(jobs)
                counters = [d.counter for d in some if d.counter is not None]
                await bounded_map(self._object_ids.forget, counters, limit=FORGOTTEN_AT_ONCE)
                await self._partition.drop_quietly([dead_key(d.channel_id) for d in some])
        except StoreError as error:
            log.warning("the jobs of deleted channels are not submitted yet: %s", error)

    # -- tokens

    async def create_token(self, token: Token) -> None:
        """NotFound if its project is missing, AlreadyExists if the name is taken."""

        async def create(change: Change) -> None:
            await known(change, Key("project", token.project))
            await refuse_taken(change, Key("token", token.name))
            change.put(Key("token", token.name), token.to_json())

        await self._partition.change(create)

    async def token(self, name: str) -> Token:
        """The token of that name; NotFound."""
        return Token(**await known(self._partition.reads(), Key("token", name)))

    async def tokens(self, project: str | None = None) -> Sequence[Token]:
        """All tokens or those of a project, by name."""
        found = await all_of(self._partition.reads(), Token)
        return [token for token in found if project in (None, token.project)]

    async def update_token(self, token: Token, *, expected: Token | None = None) -> None:
        """Replace the one of that name; NotFound."""

        async def update(change: Change) -> None:
            await replace(change, Key("token", token.name), token, expected)
            await known(change, Key("project", token.project))

        await self._partition.change(update)

    async def delete_token(self, name: str) -> None:
        """Only the token; NotFound."""

        async def delete(change: Change) -> None:
            await known(change, Key("token", name))
            change.drop(Key("token", name))

        await self._partition.change(delete)

    # -- what every request asks

    async def token_view(self, token_name: str) -> TokenView:
        """As `Catalog.token_view`; one small read when nothing changed."""
        view = await self._cached(("token", token_name), lambda reads: view_of(reads, token_name))
        if view is None:
            raise NotFound(f"there is no token {token_name[:SHOWN]}")
        return view

    async def is_live(self, channel_id: int) -> bool:
        """As `Catalog.is_live`; one small read when nothing changed."""
        return await self._live_fields(channel_id) is not None

    async def live_channel(self, channel_id: int) -> Channel | None:
        """As `Catalog.live_channel`; one small read when nothing changed."""

        async def read(reads: Reads) -> Channel | None:
            live = await reads.row(live_key(channel_id))
            if live is None:
                return None
            fields = await reads.row(Key("channel", live["project"], live["name"]))
            return None if fields is None else Channel(**fields)

        if not 0 <= channel_id <= MAX_ID:
            return None
        return await self._cached(("channel", channel_id), read)

    async def user_of_key(self, key_hash: bytes) -> User | None:
        """As `Catalog.user_of_key`; one small read when nothing changed."""

        async def read(reads: Reads) -> User | None:
            fields = await reads.row(Key("key", key_hash.hex()))
            return None if fields is None else User(**fields)

        return await self._cached(("key", key_hash), read)

    async def reserve_ids(self, channel_id: int, count: int, *, most: int = MAX_OBJECT_ID) -> int:
        """As `Catalog.reserve_ids`.

        When the store fails to say whether a reservation was made, and others made theirs since,
        its ids are given to nobody: a gap is possible, an id given twice is not.
        """
        if count < 1:
            raise InvalidRequest(f"{count} ids cannot be reserved")
        counter = await self._counter(channel_id)
        return await self._object_ids.reserve(counter, count, most=most)

    async def raise_ids(self, channel_id: int, at_least: int) -> None:
        """As `Catalog.raise_ids`."""
        if not 0 <= at_least <= MAX_OBJECT_ID:
            raise InvalidRequest(f"{at_least} is no id of an object")
        await self._object_ids.raise_to(await self._counter(channel_id), at_least)

    async def _counter(self, channel_id: int) -> int:
        fields = await self._live_fields(channel_id)
        if fields is None:
            raise NotFound("there is no such channel")
        return int(fields["counter"])

    async def _live_fields(self, channel_id: int) -> Fields | None:
        if not 0 <= channel_id <= MAX_ID:
            return None
        return await self._cached(
            ("live", channel_id), lambda reads: reads.row(live_key(channel_id))
        )

    async def _cached(
        self, key: Hashable, question: Callable[[Reads], Awaitable[T | None]]
    ) -> T | None:
        """The answer as of a version that is confirmed now, or as read now."""
        if key in self._cache:
            version, answer = self._cache[key]
            if version == await self._partition.version():
                return cast(T, answer)
            self._cache.pop(key, None)
        read_at, fresh = await self._partition.snapshot(question)
        # What is absent shows no version, and is asked for by those who try names at random.
        if fresh is not None and read_at is not None:
            if len(self._cache) >= CACHE_ENTRIES:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = (read_at, fresh)
        return fresh

    # -- users

    async def add_user(self, name: str, *, superuser: bool = False) -> User:
        """As `Catalog.add_user`."""

        async def add(change: Change) -> User:
            await refuse_taken(change, Key("user", name))
            user = User(change.new_user_id(), name, superuser)
            for key in (Key("user", name), user_key(user.id)):
                change.put(key, dataclasses.asdict(user))
            return user

        return await self._partition.change(add)

    async def user(self, name: str) -> User:
        """The user of that name; NotFound."""
        return User(**await known(self._partition.reads(), Key("user", name)))

    async def user_of_id(self, user_id: int) -> User:
        """The user of that id; NotFound."""
        return await user_of_id(self._partition.reads(), user_id)

    async def users(self) -> Sequence[User]:
        """All, by name."""
        rows = await self._partition.reads().kind("user")
        return [User(**fields) for fields in rows.values()]

    async def remove_user(self, name: str) -> None:
        """As `Catalog.remove_user`."""

        async def remove(change: Change) -> None:
            user = User(**await known(change, Key("user", name)))
            owned: list[Resource] = [
                *await all_of(change, Dataset),
                *await all_of(change, Project),
                *await all_of(change, Token),
            ]
            if any(resource.to_json()["user"] == user.id for resource in owned):
                raise Conflict(f"user {name} still owns datasets, projects or tokens")
            await drop_keys(change, user.id)
            change.drop(Key("user", name))
            change.drop(user_key(user.id))

        await self._partition.change(remove)

    async def add_key(self, user_id: int, key_hash: bytes) -> None:
        """One more key of a user; NotFound."""

        async def add(change: Change) -> None:
            user = await user_of_id(change, user_id)
            if await change.row(Key("key", key_hash.hex())) is not None:
                raise AlreadyExists("there already is a key with this hash")
            change.put(Key("key", key_hash.hex()), dataclasses.asdict(user))
            change.put(Key("keys", as_name(user_id), key_hash.hex()), {})

        await self._partition.change(add)

    async def revoke_keys(self, user_id: int) -> int:
        """As `Catalog.revoke_keys`."""
        return await self._partition.change(lambda change: drop_keys(change, user_id))

"""The catalogue of an embedded store: names, users and keys in SQLite.

Every request asks which channel a token leads to, whose its key is and whether the channel is still
there. These answers are cached in the process, under the version of the catalogue that they were
read at: each change raises the version in its own transaction, and a look at the version (about 4
microseconds, on the event loop) shows whether the cache still holds. So no answer is older than
the last acknowledged change of any process. What changes often and is not cached (object ids, jobs,
objects, labels) leaves the version alone.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar, cast

from ndcass.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from ndcass.model import Channel, Dataset, Project, Token, TokenView, User
from ndcass.store.base import DELETE_JOB, MAX_OBJECT_ID
from ndcass.store.embedded import names
from ndcass.store.embedded.jobs import EmbeddedJobs
from ndcass.store.embedded.names import Row
from ndcass.store.embedded.sqlite import Database
from ndcass.store.embedded.token import ChangeToken
from ndcass.store.values import json_text

T = TypeVar("T")

# Answers kept: a few KB each at most, and one token is asked for again and again.
CACHE_ENTRIES = 4096
# A process that dies between its commit and the token leaves others with what was before. Nobody
# was told of that commit, and after this time they ask the database all the same.
BELIEVED_S = 1.0

_VERSION = "SELECT version FROM catalog_version"
_IDS_OF_DATASET = (
    "SELECT channels.id FROM channels JOIN projects ON projects.name = project "
    "WHERE dataset = ? ORDER BY channels.id"
)


class EmbeddedCatalog:
    """The `Catalog` on a database file."""

    def __init__(self, database: Database, jobs: EmbeddedJobs, token: ChangeToken) -> None:
        self._database = database
        self._jobs = jobs
        self._token = token
        self._cache: dict[Hashable, object] = {}
        self._cache_version = 0
        # The token under which the cache was last found current, and how long that is believed.
        self._checked_token = b""
        self._checked_until_s = 0.0

    # -- datasets

    async def create_dataset(self, dataset: Dataset) -> None:
        """As `Catalog.create_dataset`."""

        def create(db: sqlite3.Connection) -> None:
            names.refuse_taken(db, "dataset", dataset.name)
            values = (dataset.name, dataset.user, json_text(dataset.to_json()))
            db.execute("INSERT INTO datasets (name, user_id, fields) VALUES (?, ?, ?)", values)

        await self._change(create)

    async def dataset(self, name: str) -> Dataset:
        """As `Catalog.dataset`."""
        return await self._database.read(lambda db: names.dataset_named(db, name))

    async def datasets(self) -> Sequence[Dataset]:
        """As `Catalog.datasets`."""
        rows = await self._rows("SELECT fields FROM datasets ORDER BY name")
        return [Dataset(**json.loads(fields)) for (fields,) in rows]

    async def update_dataset(
        self, dataset: Dataset, *, expected: Dataset | None = None, new_channel_ids: bool = False
    ) -> None:
        """As `Catalog.update_dataset`."""

        def update(db: sqlite3.Connection) -> None:
            names.refuse_changed(names.dataset_named(db, dataset.name), expected)
            values = (dataset.user, json_text(dataset.to_json()), dataset.name)
            db.execute("UPDATE datasets SET user_id = ?, fields = ? WHERE name = ?", values)
            if new_channel_ids:
                for (channel_id,) in db.execute(_IDS_OF_DATASET, (dataset.name,)).fetchall():
                    self._renew_id(db, channel_id)

        await self._change(update)

    async def delete_dataset(self, name: str) -> None:
        """As `Catalog.delete_dataset`."""

        def delete(db: sqlite3.Connection) -> None:
            names.known(db, "dataset", name)
            self._submit_deletes(db, _IDS_OF_DATASET, name)
            db.execute("DELETE FROM datasets WHERE name = ?", (name,))

        await self._change(delete)

    # -- projects

    async def create_project(self, project: Project) -> None:
        """As `Catalog.create_project`."""

        def create(db: sqlite3.Connection) -> None:
            names.known(db, "dataset", project.dataset)
            names.refuse_taken(db, "project", project.name)
            values = (project.name, project.dataset, project.user, json_text(project.to_json()))
            db.execute(
                "INSERT INTO projects (name, dataset, user_id, fields) VALUES (?, ?, ?, ?)", values
            )

        await self._change(create)

    async def project(self, name: str) -> Project:
        """The project of that name; NotFound."""
        return await self._database.read(lambda db: names.project_named(db, name))

    async def projects(self, dataset: str | None = None) -> Sequence[Project]:
        """All projects or those of a dataset, by name."""
        rows = await self._rows(
            "SELECT fields FROM projects WHERE ?1 IS NULL OR dataset = ?1 ORDER BY name", dataset
        )
        return [Project(**json.loads(fields)) for (fields,) in rows]

    async def update_project(self, project: Project, *, expected: Project | None = None) -> None:
        """Replace the one of that name; NotFound."""

        def update(db: sqlite3.Connection) -> None:
            names.refuse_changed(names.project_named(db, project.name), expected)
            names.known(db, "dataset", project.dataset)
            values = (project.dataset, project.user, json_text(project.to_json()), project.name)
            db.execute(
                "UPDATE projects SET dataset = ?, user_id = ?, fields = ? WHERE name = ?", values
            )

        await self._change(update)

    async def delete_project(self, name: str) -> None:
        """With its tokens and channels; NotFound."""

        def delete(db: sqlite3.Connection) -> None:
            names.known(db, "project", name)
            self._submit_deletes(db, "SELECT id FROM channels WHERE project = ? ORDER BY id", name)
            db.execute("DELETE FROM projects WHERE name = ?", (name,))

        await self._change(delete)

    # -- channels

    async def create_channel(self, channel: Channel) -> Channel:
        """As `Catalog.create_channel`; the id of `channel` is a placeholder."""

        def create(db: sqlite3.Connection) -> Channel:
            names.known(db, "project", channel.project)
            names.refuse_namesake(db, channel, own_id=None)
            names.clear_default_for(db, channel)
            return names.channel_of_id(db, names.insert_channel(db, names.channel_values(channel)))

        return await self._change(create)

    async def channel(self, project: str, name: str) -> Channel:
        """The channel of that name; NotFound."""
        return await self._database.read(lambda db: names.channel_named(db, project, name))

    async def channels(self, project: str) -> Sequence[Channel]:
        """Those of a project, by name."""
        return await self._database.read(lambda db: names.channels_of(db, project))

    async def update_channel(
        self, channel: Channel, *, expected: Channel | None = None, new_id: bool = False
    ) -> Channel:
        """As `Catalog.update_channel`."""

        def update(db: sqlite3.Connection) -> Channel:
            if not names.is_live(db, channel.id):
                raise NotFound(f"there is no channel {channel.name}")
            names.refuse_changed(names.channel_of_id(db, channel.id), expected)
            names.known(db, "project", channel.project)
            names.refuse_namesake(db, channel, own_id=channel.id)
            names.clear_default_for(db, channel)
            channel_id = self._renew_id(db, channel.id) if new_id else channel.id
            db.execute(
                "UPDATE channels SET project = ?, name = ?, is_default = ?, fields = ?"
                " WHERE id = ?",
                (*names.channel_values(channel), channel_id),
            )
            return names.channel_of_id(db, channel_id)

        return await self._change(update)

    async def delete_channel(self, project: str, name: str) -> None:
        """As `Catalog.delete_channel`."""

        def delete(db: sqlite3.Connection) -> None:
            channel = names.channel_named(db, project, name)
            self._submit_deletes(db, "SELECT id FROM channels WHERE id = ?", channel.id)
            db.execute("DELETE FROM channels WHERE id = ?", (channel.id,))

        await self._change(delete)

    async def delete_unknown(self, channel_ids: Collection[int]) -> int:
        """Submit a job for every id of a deleted channel that has none under way; how many.

        The ids are those that something is stored under: read before this is called, since a
        channel that is made afterwards is unknown to nobody. One that this catalogue never gave
        out stays as it is, for then the catalogue is older than what is stored.
        """

        def left_over(db: sqlite3.Connection) -> list[int]:
            return [i for i in names.deleted(db, channel_ids) if not self._jobs.has_delete(db, i)]

        def delete(db: sqlite3.Connection) -> int:
            found = left_over(db)
            for channel_id in found:
                self._jobs.insert(db, DELETE_JOB, channel_id, {})
            return len(found)

        # Nearly always there is none: a look does not wait for other writers.
        if not await self._database.read(left_over):
            return 0
        return await self._database.write(delete)

    def _renew_id(self, db: sqlite3.Connection, channel_id: int) -> int:
        """Give a channel an id never used before, and up what is stored under the old one."""
        last_object_id = names.last_object_id(db, channel_id)
        values = db.execute(
            "SELECT project, name, is_default, fields FROM channels WHERE id = ?", (channel_id,)
        ).fetchone()
        # Not an UPDATE of the id: only an INSERT takes one that was never used.
        db.execute("DELETE FROM channels WHERE id = ?", (channel_id,))
        self._jobs.insert(db, DELETE_JOB, channel_id, {})
        return names.insert_channel(db, values, last_object_id=last_object_id)

    def _submit_deletes(self, db: sqlite3.Connection, select_ids: str, key: str | int) -> None:
        """A job for every channel of a selection, in the transaction that deletes it."""
        for (channel_id,) in db.execute(select_ids, (key,)).fetchall():
            self._jobs.insert(db, DELETE_JOB, channel_id, {})

    # -- tokens

    async def create_token(self, token: Token) -> None:
        """NotFound if its project is missing, AlreadyExists if the name is taken."""

        def create(db: sqlite3.Connection) -> None:
            names.known(db, "project", token.project)
            names.refuse_taken(db, "token", token.name)
            values = (token.name, token.project, token.user, json_text(token.to_json()))
            db.execute(
                "INSERT INTO tokens (name, project, user_id, fields) VALUES (?, ?, ?, ?)", values
            )

        await self._change(create)

    async def token(self, name: str) -> Token:
        """The token of that name; NotFound."""
        return await self._database.read(lambda db: names.token_named(db, name))

    async def tokens(self, project: str | None = None) -> Sequence[Token]:
        """All tokens or those of a project, by name."""
        rows = await self._rows(
            "SELECT fields FROM tokens WHERE ?1 IS NULL OR project = ?1 ORDER BY name", project
        )
        return [Token(**json.loads(fields)) for (fields,) in rows]

    async def update_token(self, token: Token, *, expected: Token | None = None) -> None:
        """Replace the one of that name; NotFound."""

        def update(db: sqlite3.Connection) -> None:
            names.refuse_changed(names.token_named(db, token.name), expected)
            names.known(db, "project", token.project)
            values = (token.project, token.user, json_text(token.to_json()), token.name)
            db.execute(
                "UPDATE tokens SET project = ?, user_id = ?, fields = ? WHERE name = ?", values
            )

        await self._change(update)

    async def delete_token(self, name: str) -> None:
        """Only the token; NotFound."""

        def delete(db: sqlite3.Connection) -> None:
            names.known(db, "token", name)
            db.execute("DELETE FROM tokens WHERE name = ?", (name,))

        await self._change(delete)

    # -- what every request asks

    async def token_view(self, token_name: str) -> TokenView:
        """As `Catalog.token_view`; without a change of thread when nothing changed."""
        return await self._cached(
            ("token", token_name), lambda db: names.token_view(db, token_name)
        )

    async def is_live(self, channel_id: int) -> bool:
        """As `Catalog.is_live`; without a change of thread when nothing changed."""
        # Asks the database itself: a write is about to be acknowledged.
        self._checked_until_s = 0.0
        return await self._cached(("live", channel_id), lambda db: names.is_live(db, channel_id))

    async def live_channel(self, channel_id: int) -> Channel | None:
        """As `Catalog.live_channel`; without a change of thread when nothing changed."""
        self._checked_until_s = 0.0  # as in `is_live`
        return await self._cached(
            ("channel", channel_id),
            lambda db: (
                names.channel_of_id(db, channel_id) if names.is_live(db, channel_id) else None
            ),
        )

    async def user_of_key(self, key_hash: bytes) -> User | None:
        """As `Catalog.user_of_key`; without a change of thread when nothing changed."""
        return await self._cached(("key", key_hash), lambda db: names.user_of_key(db, key_hash))

    async def reserve_ids(self, channel_id: int, count: int, *, most: int = MAX_OBJECT_ID) -> int:
        """As `Catalog.reserve_ids`."""
        if count < 1:
            raise InvalidRequest(f"{count} ids cannot be reserved")

        def reserve(db: sqlite3.Connection) -> int:
            last = names.last_object_id(db, channel_id)
            if count > most - last:
                raise Conflict(f"the channel has fewer than {count} ids left up to {most}")
            names.set_last_object_id(db, channel_id, last + count)
            return last + 1

        return await self._database.write(reserve)

    async def raise_ids(self, channel_id: int, at_least: int) -> None:
        """As `Catalog.raise_ids`."""
        if not 0 <= at_least <= MAX_OBJECT_ID:
            raise InvalidRequest(f"{at_least} is no id of an object")

        def raise_them(db: sqlite3.Connection) -> None:
            if names.last_object_id(db, channel_id) < at_least:
                names.set_last_object_id(db, channel_id, at_least)

        await self._database.write(raise_them)

    # -- users

    async def add_user(self, name: str, *, superuser: bool = False) -> User:
        """As `Catalog.add_user`."""

        def add(db: sqlite3.Connection) -> User:
            names.refuse_taken(db, "user", name)
            values = (name, superuser)
            db.execute("INSERT INTO users (name, is_superuser) VALUES (?, ?)", values)
            return names.user_named(db, name)

        return await self._change(add)

    async def user(self, name: str) -> User:
        """The user of that name; NotFound."""
        return await self._database.read(lambda db: names.user_named(db, name))

    async def user_of_id(self, user_id: int) -> User:
        """The user of that id; NotFound."""
        return await self._database.read(lambda db: names.user_of_id(db, user_id))

    async def users(self) -> Sequence[User]:
        """All, by name."""
        rows = await self._rows("SELECT id, name, is_superuser FROM users ORDER BY name")
        return [names.as_user(row) for row in rows]

    async def remove_user(self, name: str) -> None:
        """As `Catalog.remove_user`."""

        def remove(db: sqlite3.Connection) -> None:
            user = names.user_named(db, name)
            owned = db.execute(
                "SELECT EXISTS (SELECT 1 FROM datasets WHERE user_id = ?1)"
                " OR EXISTS (SELECT 1 FROM projects WHERE user_id = ?1)"
                " OR EXISTS (SELECT 1 FROM tokens WHERE user_id = ?1)",
                (user.id,),
            )
            if owned.fetchone()[0]:
                raise Conflict(f"user {name} still owns datasets, projects or tokens")
            db.execute("DELETE FROM users WHERE id = ?", (user.id,))

        await self._change(remove)

    async def add_key(self, user_id: int, key_hash: bytes) -> None:
        """One more key of a user; NotFound."""

        def add(db: sqlite3.Connection) -> None:
            names.user_of_id(db, user_id)
            if names.first(db, "SELECT 1 FROM keys WHERE hash = ?", key_hash):
                raise AlreadyExists("there already is a key with this hash")
            db.execute("INSERT INTO keys (hash, user_id) VALUES (?, ?)", (key_hash, user_id))

        await self._change(add)

    async def revoke_keys(self, user_id: int) -> int:
        """As `Catalog.revoke_keys`."""
        return await self._change(
            lambda db: db.execute("DELETE FROM keys WHERE user_id = ?", (user_id,)).rowcount
        )

    # -- transactions and cache

    async def _change(self, func: Callable[[sqlite3.Connection], T]) -> T:
        """A transaction that changes what some process may have cached."""

        def change(db: sqlite3.Connection) -> T:
            result = func(db)
            db.execute("UPDATE catalog_version SET version = version + 1")
            self._token.renew()
            return result

        return await self._database.write(change, committed=self._token.renew)

    async def _rows(self, select: str, *values: str | None) -> list[Row]:
        return await self._database.read(lambda db: db.execute(select, values).fetchall())

    async def _cached(self, key: Hashable, query: Callable[[sqlite3.Connection], T]) -> T:
        """The answer of the cache if the catalogue has not changed since, else of the database."""
        if key in self._cache and self._is_current():
            return cast(T, self._cache[key])
        version, answer = await self._database.read(
            # One snapshot: the answer is of exactly this version.
            lambda db: (int(db.execute(_VERSION).fetchone()[0]), query(db))
        )
        if version > self._cache_version:
            self._cache.clear()
            self._cache_version = version
        if version == self._cache_version:  # else another request met a later one meanwhile
            if len(self._cache) >= CACHE_ENTRIES:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = answer
        return answer

    def _is_current(self) -> bool:
        """Whether the catalogue is still the one that the cache is of."""
        token, now_s = self._token.value(), time.monotonic()
        if token == self._checked_token and now_s < self._checked_until_s:
            return True
        if self._database.peek(_VERSION) != self._cache_version:
            return False
        self._checked_token, self._checked_until_s = token, now_s + BELIEVED_S
        return True

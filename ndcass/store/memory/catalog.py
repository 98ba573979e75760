"""Names, users and keys in memory."""

import dataclasses
from collections.abc import Collection, Sequence

from ndcass.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from ndcass.model import Channel, Dataset, Project, Resource, Token, TokenView, User
from ndcass.store.base import (
    DELETE_JOB,
    MAX_OBJECT_ID,
)
from ndcass.store.memory.dicts import by_name, forget, known
from ndcass.store.memory.jobs import MemoryJobs


class MemoryCatalog:
    """The `Catalog` in dicts. Every method changes all or nothing, since none awaits midway."""

    def __init__(self, jobs: MemoryJobs) -> None:
        self._jobs = jobs
        self._datasets: dict[str, Dataset] = {}
        self._projects: dict[str, Project] = {}
        self._tokens: dict[str, Token] = {}
        self._channels: dict[int, Channel] = {}
        self._last_channel_id = 0
        self._last_object_id: dict[int, int] = {}
        self._users: dict[int, User] = {}
        self._last_user_id = 0
        self._keys: dict[bytes, int] = {}

    async def create_dataset(self, dataset: Dataset) -> None:
        """As `Catalog.create_dataset`."""
        _refuse_taken(dataset.name in self._datasets, "dataset", dataset.name)
        self._datasets[dataset.name] = dataset

    async def dataset(self, name: str) -> Dataset:
        """As `Catalog.dataset`."""
        return known(self._datasets, name, "dataset")

    async def datasets(self) -> Sequence[Dataset]:
        """As `Catalog.datasets`."""
        return by_name(self._datasets)

    async def update_dataset(
        self, dataset: Dataset, *, expected: Dataset | None = None, new_channel_ids: bool = False
    ) -> None:
        """As `Catalog.update_dataset`."""
        _refuse_changed(known(self._datasets, dataset.name, "dataset"), expected)
        self._datasets[dataset.name] = dataset
        if new_channel_ids:
            mine = {p.name for p in self._projects.values() if p.dataset == dataset.name}
            for channel in [c for c in self._channels.values() if c.project in mine]:
                self._store_channel(self._renewed(channel))

    async def delete_dataset(self, name: str) -> None:
        """As `Catalog.delete_dataset`."""
        known(self._datasets, name, "dataset")
        for project in [p for p in self._projects.values() if p.dataset == name]:
            self._delete_project(project.name)
        del self._datasets[name]

    async def create_project(self, project: Project) -> None:
        """As `Catalog.create_project`."""
        known(self._datasets, project.dataset, "dataset")
        _refuse_taken(project.name in self._projects, "project", project.name)
        self._projects[project.name] = project

    async def project(self, name: str) -> Project:
        """The project of that name; NotFound."""
        return known(self._projects, name, "project")

    async def projects(self, dataset: str | None = None) -> Sequence[Project]:
        """All projects or those of a dataset, by name."""
        return [p for p in by_name(self._projects) if dataset is None or p.dataset == dataset]

    async def update_project(self, project: Project, *, expected: Project | None = None) -> None:
        """Replace the one of that name; NotFound."""
        _refuse_changed(known(self._projects, project.name, "project"), expected)
        known(self._datasets, project.dataset, "dataset")
        self._projects[project.name] = project

    async def delete_project(self, name: str) -> None:
        """With its tokens and channels; NotFound."""
        known(self._projects, name, "project")
        self._delete_project(name)

    def _delete_project(self, name: str) -> None:
        for channel in [c for c in self._channels.values() if c.project == name]:
            self._delete_channel(channel)
        forget(self._tokens, lambda token: self._tokens[token].project == name)
        del self._projects[name]

    async def create_channel(self, channel: Channel) -> Channel:
        """As `Catalog.create_channel`."""
        known(self._projects, channel.project, "project")
        taken = self._find_channel(channel.project, channel.name) is not None
        _refuse_taken(taken, "channel", channel.name)
        stored = self._with_new_id(channel)
        self._store_channel(stored)
        return stored

    async def channel(self, project: str, name: str) -> Channel:
        """The channel of that name; NotFound."""
        return self._known_channel(project, name)

    async def channels(self, project: str) -> Sequence[Channel]:
        """Those of a project, by name."""
        mine = (c for c in self._channels.values() if c.project == project)
        return sorted(mine, key=lambda channel: channel.name)

    async def update_channel(
        self, channel: Channel, *, expected: Channel | None = None, new_id: bool = False
    ) -> Channel:
        """As `Catalog.update_channel`."""
        if channel.id not in self._channels:
            raise NotFound(f"there is no channel {channel.name}")
        _refuse_changed(self._channels[channel.id], expected)
        namesake = self._find_channel(channel.project, channel.name)
        taken = namesake is not None and namesake.id != channel.id
        _refuse_taken(taken, "channel", channel.name)
        stored = self._renewed(channel) if new_id else channel
        self._store_channel(stored)
        return stored

    async def delete_channel(self, project: str, name: str) -> None:
        """As `Catalog.delete_channel`."""
        self._delete_channel(self._known_channel(project, name))

    def _find_channel(self, project: str, name: str) -> Channel | None:
        mine = (c for c in self._channels.values() if (c.project, c.name) == (project, name))
        return next(mine, None)

    def _known_channel(self, project: str, name: str) -> Channel:
        channel = self._find_channel(project, name)
        if channel is None:
            raise NotFound(f"there is no channel {name} in project {project}")
        return channel

    def _store_channel(self, channel: Channel) -> None:
        if channel.default:
            for other in [c for c in self._channels.values() if c.project == channel.project]:
                self._channels[other.id] = dataclasses.replace(other, default=False)
        self._channels[channel.id] = channel

    def _with_new_id(self, channel: Channel) -> Channel:
        self._last_channel_id += 1
        return dataclasses.replace(channel, id=self._last_channel_id)

    def _renewed(self, channel: Channel) -> Channel:
        """A channel under a new id; what is stored under the old one is given up."""
        renewed = self._with_new_id(channel)
        self._last_object_id[renewed.id] = self._last_object_id.get(channel.id, 0)
        self._delete_channel(channel)
        return renewed

    def delete_unknown(self, channel_ids: Collection[int]) -> None:
        """Submit a job for every id of a deleted channel that has none under way."""
        for channel_id in channel_ids:
            was_deleted = channel_id <= self._last_channel_id and channel_id not in self._channels
            if was_deleted and not self._jobs.has_delete(channel_id):
                self._jobs.submit_now(DELETE_JOB, channel_id, {})

    def _delete_channel(self, channel: Channel) -> None:
        del self._channels[channel.id]
        self._last_object_id.pop(channel.id, None)
        self._jobs.submit_now(DELETE_JOB, channel.id, {})

    async def create_token(self, token: Token) -> None:
        """NotFound if its project is missing, AlreadyExists if the name is taken."""
        known(self._projects, token.project, "project")
        _refuse_taken(token.name in self._tokens, "token", token.name)
        self._tokens[token.name] = token

    async def token(self, name: str) -> Token:
        """The token of that name; NotFound."""
        return known(self._tokens, name, "token")

    async def tokens(self, project: str | None = None) -> Sequence[Token]:
        """All tokens or those of a project, by name."""
        return [t for t in by_name(self._tokens) if project is None or t.project == project]

    async def update_token(self, token: Token, *, expected: Token | None = None) -> None:
        """Replace the one of that name; NotFound."""
        _refuse_changed(known(self._tokens, token.name, "token"), expected)
        known(self._projects, token.project, "project")
        self._tokens[token.name] = token

    async def delete_token(self, name: str) -> None:
        """Only the token; NotFound."""
        known(self._tokens, name, "token")
        del self._tokens[name]

    async def token_view(self, token_name: str) -> TokenView:
        """As `Catalog.token_view`."""
        token = known(self._tokens, token_name, "token")
        project = self._projects[token.project]
        dataset = self._datasets[project.dataset]
        return TokenView(token, project, dataset, tuple(await self.channels(project.name)))

    async def is_live(self, channel_id: int) -> bool:
        """As `Catalog.is_live`."""
        return channel_id in self._channels

    async def live_channel(self, channel_id: int) -> Channel | None:
        """As `Catalog.live_channel`."""
        return self._channels.get(channel_id)

    async def reserve_ids(self, channel_id: int, count: int, *, most: int = MAX_OBJECT_ID) -> int:
        """As `Catalog.reserve_ids`."""
        if count < 1:
            raise InvalidRequest(f"{count} ids cannot be reserved")
        if channel_id not in self._channels:
            raise NotFound("there is no such channel")
        last = self._last_object_id.get(channel_id, 0)
        if count > most - last:
            raise Conflict(f"the channel has fewer than {count} ids left up to {most}")
        self._last_object_id[channel_id] = last + count
        return last + 1

    async def raise_ids(self, channel_id: int, at_least: int) -> None:
        """As `Catalog.raise_ids`."""
        if channel_id not in self._channels:
            raise NotFound("there is no such channel")
        last = self._last_object_id.get(channel_id, 0)
        self._last_object_id[channel_id] = max(last, at_least)

    async def add_user(self, name: str, *, superuser: bool = False) -> User:
        """As `Catalog.add_user`."""
        _refuse_taken(any(u.name == name for u in self._users.values()), "user", name)
        self._last_user_id += 1
        user = User(self._last_user_id, name, superuser)
        self._users[user.id] = user
        return user

    async def user(self, name: str) -> User:
        """The user of that name; NotFound."""
        return self._known_user(name)

    def _known_user(self, name: str) -> User:
        user = next((u for u in self._users.values() if u.name == name), None)
        if user is None:
            raise NotFound(f"there is no user {name}")
        return user

    async def user_of_id(self, user_id: int) -> User:
        """The user of that id; NotFound."""
        return known(self._users, user_id, "user")

    async def users(self) -> Sequence[User]:
        """All, by name."""
        return sorted(self._users.values(), key=lambda user: user.name)

    async def remove_user(self, name: str) -> None:
        """As `Catalog.remove_user`."""
        user = self._known_user(name)
        owned: list[Dataset | Project | Token] = [
            *self._datasets.values(),
            *self._projects.values(),
            *self._tokens.values(),
        ]
        if any(resource.user == user.id for resource in owned):
            raise Conflict(f"user {name} still owns datasets, projects or tokens")
        forget(self._keys, lambda key: self._keys[key] == user.id)
        del self._users[user.id]

    async def add_key(self, user_id: int, key_hash: bytes) -> None:
        """One more key of a user; NotFound."""
        known(self._users, user_id, "user")
        _refuse_taken(key_hash in self._keys, "key", "with this hash")
        self._keys[key_hash] = user_id

    async def revoke_keys(self, user_id: int) -> int:
        """As `Catalog.revoke_keys`."""
        return forget(self._keys, lambda key: self._keys[key] == user_id)

    async def user_of_key(self, key_hash: bytes) -> User | None:
        """As `Catalog.user_of_key`."""
        user_id = self._keys.get(key_hash)
        return None if user_id is None else self._users[user_id]


def _refuse_changed(stored: Resource, expected: Resource | None) -> None:
    if expected is not None and stored != expected:
        raise Conflict(f"{stored.name} was changed meanwhile: read it again")


def _refuse_taken(taken: bool, kind: str, name: str) -> None:
    if taken:
        raise AlreadyExists(f"there already is a {kind} {name}")

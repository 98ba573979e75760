"""Rows of the catalogue by what they mean: where each thing is, and how it is read and written.

======== ===================== =============== ====================================================
kind     name                  part            fields
======== ===================== =============== ====================================================
dataset  its name                              of the dataset
project  its name                              of the project
token    its name                              of the token
channel  name of the project   its name        of the channel
channel  name of the project   (empty)         none: shows the version where there is no channel
live     id of a channel                       where the channel is, and its counter of object ids
dead     id of a former one                    the job that removes its voxels, not yet submitted
user     its name                              of the user
user-id  id of the user                        of the user
key      hash of the key                       of its user
keys     id of the user        hash of a key   none
======== ===================== =============== ====================================================
"""

import dataclasses
from typing import Any, TypeVar

from ndcass.errors import AlreadyExists, Conflict, NotFound
from ndcass.model import Channel, Dataset, Project, Resource, Token, TokenView, User
from ndcass.store.cassandra.partition import Change, Key, Reads

ResourceT = TypeVar("ResourceT", Dataset, Project, Token)

MAX_ID = (1 << 63) - 1
# A name may come straight from a URL; an error does not repeat more of it than this.
SHOWN = 80


@dataclasses.dataclass(frozen=True, slots=True)
class DeadChannel:
    """An id whose channel is gone, and what is left to do about it."""

    channel_id: int
    job_id: str
    counter: int | None


def as_name(number: int) -> str:
    """An id as a name: of one length, so that names are in the order of ids."""
    return f"{number:016x}"


def live_key(channel_id: int) -> Key:
    """Where it stands that a channel exists."""
    return Key("live", as_name(channel_id))


def dead_key(channel_id: int) -> Key:
    """Where the job of a former channel is noted."""
    return Key("dead", as_name(channel_id))


def user_key(user_id: int) -> Key:
    """Where a user is found by id."""
    return Key("user-id", as_name(user_id))


def channel_key(project: str, name: str) -> Key:
    """Where a channel is; of the empty name, which is the row of the project, there is none."""
    if not name:
        raise NotFound("there is no channel without a name")
    return Key("channel", project, name)


# -- what reads and changes share


async def known(reads: Reads, key: Key) -> dict[str, Any]:
    """The fields of a row, by name; NotFound. `Any` is what JSON can hold."""
    fields = await reads.row(key)
    if fields is None:
        raise NotFound(f"there is no {key.kind} {(key.part or key.name)[:SHOWN]}")
    return dict(fields)


async def refuse_taken(reads: Reads, key: Key) -> None:
    """AlreadyExists if there is such a row."""
    if await reads.row(key) is not None:
        raise AlreadyExists(f"there already is a {key.kind} {(key.part or key.name)[:SHOWN]}")


def refuse_changed(stored: Resource, expected: Resource | None) -> None:
    """Conflict unless what is stored is what the caller has read."""
    if expected is not None and stored != expected:
        raise Conflict(f"{stored.name} was changed meanwhile: read it again")


async def replace(
    change: Change, key: Key, resource: ResourceT, expected: ResourceT | None
) -> None:
    """Replace the dataset, project or token of that name; NotFound, Conflict."""
    refuse_changed(type(resource)(**await known(change, key)), expected)
    change.put(key, resource.to_json())


async def all_of(reads: Reads, kind: type[ResourceT]) -> list[ResourceT]:
    """All datasets, projects or tokens, by name."""
    rows = await reads.kind(kind.__name__.lower())
    return [kind(**fields) for fields in rows.values()]


async def channels_of(reads: Reads, project: str) -> list[Channel]:
    """The channels of a project, by name."""
    parts = await reads.parts("channel", project)
    return [Channel(**fields) for name, fields in parts.items() if name]


async def view_of(reads: Reads, token_name: str) -> TokenView | None:
    """All that a token leads to; None if there is no such token."""
    token = await reads.row(Key("token", token_name))
    if token is None:
        return None
    project = await reads.row(Key("project", token["project"]))
    dataset = project and await reads.row(Key("dataset", project["dataset"]))
    if project is None or dataset is None:
        reads.is_torn = True  # a change in between has taken away what the token led to before
        return None
    channels = await channels_of(reads, token["project"])
    return TokenView(Token(**token), Project(**project), Dataset(**dataset), tuple(channels))


async def store_channel(
    change: Change, channel: Channel, *, counter: int, instead_of: int | None = None
) -> None:
    """Write a channel; a new default unflags the former one."""
    if channel.default:
        own_ids = (channel.id, instead_of)
        for other in await channels_of(change, channel.project):
            if other.default and other.id not in own_ids:
                unflagged = dataclasses.replace(other, default=False)
                change.put(Key("channel", other.project, other.name), unflagged.to_json())
    change.put(Key("channel", channel.project, channel.name), channel.to_json())
    live = {"project": channel.project, "name": channel.name, "counter": counter}
    change.put(live_key(channel.id), live)


async def user_of_id(reads: Reads, user_id: int) -> User:
    """The user of an id; NotFound."""
    fields = await reads.row(user_key(user_id)) if 0 <= user_id <= MAX_ID else None
    if fields is None:
        raise NotFound(f"there is no user {user_id}")
    return User(**fields)


async def drop_keys(change: Change, user_id: int) -> int:
    """Delete the keys of a user; how many there were."""
    hashes = await change.parts("keys", as_name(user_id)) if 0 <= user_id <= MAX_ID else {}
    for key_hash in hashes:
        change.drop(Key("key", key_hash))
        change.drop(Key("keys", as_name(user_id), key_hash))
    return len(hashes)

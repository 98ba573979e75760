"""What transactions on the catalogue of an embedded store ask, and the changes that they share.

Each takes the connection that the transaction runs on.
"""

import json
import sqlite3
from collections.abc import Collection
from typing import Any

from ndcass.errors import AlreadyExists, Conflict, NotFound
from ndcass.model import Channel, Dataset, Project, Resource, Token, TokenView, User
from ndcass.store.embedded.sqlite import signed, unsigned
from ndcass.store.values import json_text

# A name may come straight from a URL; an error does not repeat more of it than this.
_SHOWN = 80

_CHANNEL = "SELECT id, is_default, fields FROM channels"

Row = tuple[Any, ...]  # what its columns hold stands in the statement


def first(db: sqlite3.Connection, select: str, *key: str | int | bytes) -> Row | None:
    """The first row, or None; a key that SQLite cannot hold has no row."""
    try:
        row: Row | None = db.execute(select, key).fetchone()
    except (UnicodeEncodeError, OverflowError):
        return None
    return row


def _one(db: sqlite3.Connection, kind: str, name: str) -> Row | None:
    """The fields of the dataset, project or token of a name, or a user's row."""
    selects = {
        "dataset": "SELECT fields FROM datasets WHERE name = ?",
        "project": "SELECT fields FROM projects WHERE name = ?",
        "token": "SELECT fields FROM tokens WHERE name = ?",
        "user": "SELECT id, name, is_superuser FROM users WHERE name = ?",
    }
    return first(db, selects[kind], name)


def known(db: sqlite3.Connection, kind: str, name: str) -> Row:
    """The fields of what has a name, or a user's row; NotFound if there is none."""
    row = _one(db, kind, name)
    if row is None:
        raise NotFound(f"there is no {kind} {name[:_SHOWN]}")
    return row


def refuse_taken(db: sqlite3.Connection, kind: str, name: str) -> None:
    """AlreadyExists if something of that kind has the name."""
    if _one(db, kind, name) is not None:
        raise AlreadyExists(f"there already is a {kind} {name[:_SHOWN]}")


def refuse_changed(stored: Resource, expected: Resource | None) -> None:
    """Conflict if somebody changed it since the caller read it; None: the caller does not mind."""
    if expected is not None and stored != expected:
        raise Conflict(f"{stored.name} was changed meanwhile: read it again")


def dataset_named(db: sqlite3.Connection, name: str) -> Dataset:
    """NotFound if there is none."""
    return Dataset(**json.loads(known(db, "dataset", name)[0]))


def project_named(db: sqlite3.Connection, name: str) -> Project:
    """NotFound if there is none."""
    return Project(**json.loads(known(db, "project", name)[0]))


def token_named(db: sqlite3.Connection, name: str) -> Token:
    """NotFound if there is none."""
    return Token(**json.loads(known(db, "token", name)[0]))


def token_view(db: sqlite3.Connection, token_name: str) -> TokenView:
    """All that a token leads to; NotFound if there is no such token."""
    token = token_named(db, token_name)
    project = project_named(db, token.project)
    dataset = dataset_named(db, project.dataset)
    return TokenView(token, project, dataset, tuple(channels_of(db, project.name)))


def channels_of(db: sqlite3.Connection, project: str) -> list[Channel]:
    """Those of a project, by name; none if there is no such project."""
    try:
        rows = db.execute(f"{_CHANNEL} WHERE project = ? ORDER BY name", (project,)).fetchall()
    except UnicodeEncodeError:
        return []  # there is no such project
    return [_as_channel(row) for row in rows]


def channel_of_id(db: sqlite3.Connection, channel_id: int) -> Channel:
    """One that is live."""
    return _as_channel(db.execute(f"{_CHANNEL} WHERE id = ?", (channel_id,)).fetchone())


def channel_named(db: sqlite3.Connection, project: str, name: str) -> Channel:
    """NotFound if the project has none of that name."""
    row = first(db, f"{_CHANNEL} WHERE project = ? AND name = ?", project, name)
    if row is None:
        raise NotFound(f"there is no channel {name[:_SHOWN]}")
    return _as_channel(row)


def insert_channel(db: sqlite3.Connection, values: Row, *, last_object_id: int = 0) -> int:
    """A row under an id never used before, which is returned."""
    cursor = db.execute(
        "INSERT INTO channels (project, name, is_default, fields) VALUES (?, ?, ?, ?)", values
    )
    assert cursor.lastrowid is not None  # an INSERT has one
    db.execute(
        "INSERT INTO object_ids (channel_id, last) VALUES (?, ?)",
        (cursor.lastrowid, signed(last_object_id)),
    )
    return cursor.lastrowid


def deleted(db: sqlite3.Connection, channel_ids: Collection[int]) -> list[int]:
    """Those that were given to channels which are gone."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'channels'").fetchone()
    last_given = 0 if row is None else row[0]
    return [i for i in channel_ids if i <= last_given and not is_live(db, i)]


def is_live(db: sqlite3.Connection, channel_id: int) -> bool:
    """Whether a channel exists."""
    return first(db, "SELECT 1 FROM channels WHERE id = ?", channel_id) is not None


def refuse_namesake(db: sqlite3.Connection, channel: Channel, *, own_id: int | None) -> None:
    """AlreadyExists if another channel of the project has the name."""
    row = first(
        db, "SELECT id FROM channels WHERE project = ? AND name = ?", channel.project, channel.name
    )
    if row is not None and row[0] != own_id:
        raise AlreadyExists(f"there already is a channel {channel.name}")


def clear_default_for(db: sqlite3.Connection, channel: Channel) -> None:
    """Make room for a new default: a project has one at most."""
    if channel.default:
        db.execute(
            "UPDATE channels SET is_default = 0 WHERE project = ? AND is_default",
            (channel.project,),
        )


def channel_values(channel: Channel) -> tuple[str, str, bool, str]:
    """The columns of a channel: project, name, whether it is the default, the other fields."""
    fields = channel.to_json()
    del fields["id"], fields["default"]  # columns of their own
    return channel.project, channel.name, channel.default, json_text(fields)


def _as_channel(row: Row) -> Channel:
    channel_id, is_default, fields = row
    return Channel(id=channel_id, default=bool(is_default), **json.loads(fields))


def last_object_id(db: sqlite3.Connection, channel_id: int) -> int:
    """The highest given out in a channel; NotFound if there is no such channel."""
    row = first(db, "SELECT last FROM object_ids WHERE channel_id = ?", channel_id)
    if row is None:
        raise NotFound("there is no such channel")
    return unsigned(row[0])


def set_last_object_id(db: sqlite3.Connection, channel_id: int, last: int) -> None:
    """Give out no id up to this from now on."""
    db.execute("UPDATE object_ids SET last = ? WHERE channel_id = ?", (signed(last), channel_id))


def user_named(db: sqlite3.Connection, name: str) -> User:
    """NotFound if there is none."""
    return as_user(known(db, "user", name))


def user_of_id(db: sqlite3.Connection, user_id: int) -> User:
    """NotFound if there is none."""
    row = first(db, "SELECT id, name, is_superuser FROM users WHERE id = ?", user_id)
    if row is None:
        raise NotFound(f"there is no user {user_id}")
    return as_user(row)


def user_of_key(db: sqlite3.Connection, key_hash: bytes) -> User | None:
    """Whose key has the hash; None if nobody's."""
    row = first(
        db,
        "SELECT id, name, is_superuser FROM users JOIN keys ON user_id = id WHERE hash = ?",
        key_hash,
    )
    return None if row is None else as_user(row)


def as_user(row: Row) -> User:
    """From the columns id, name, is_superuser."""
    user_id, name, is_superuser = row
    return User(user_id, name, bool(is_superuser))

"""Keys of the LMDB index and its errors, for all that is kept in it."""

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import lmdb

from ndcass.errors import StoreError, StoreFull, StoreTimeout

# Channel, pyramid, level, timestep, Morton code, big-endian: a level lies in Morton order.
KEY = struct.Struct(">QBBqQ")
PREFIX = struct.Struct(">Q")
# Cuboids looked up in one go, and addresses of one page of a scan.
PAGE = 1024


@contextlib.contextmanager
def index_errors() -> Iterator[None]:
    """LMDB's errors as ours."""
    try:
        yield
    except lmdb.Error as error:
        raise index_error(error) from error


def index_error(error: lmdb.Error) -> StoreError:
    """Our error for one of LMDB."""
    full = any(word in str(error) for word in ("No space", "File too large", "quota"))
    if full or isinstance(error, lmdb.MapFullError | lmdb.DiskError):
        return StoreFull("no space is left in the store; nothing of this write was kept")
    if isinstance(error, lmdb.ReadersFullError):
        return StoreTimeout("too many readers of the store at once")
    return StoreError("the index of the store cannot be used")


def channels_in(env: lmdb.Environment, database: Any) -> list[int]:  # lmdb does not name its type
    """Every channel that has a key in a database, ascending."""
    with index_errors(), env.begin(database) as txn, txn.cursor() as cursor:
        found: list[int] = []
        more = cursor.first()
        while more:
            (channel_id,) = PREFIX.unpack(cursor.key()[: PREFIX.size])
            found.append(channel_id)
            more = cursor.set_range(PREFIX.pack(channel_id + 1))
        return found

"""The windows of a store, on which all who open it agree.

A fold relies on how long a writer of another gateway may take, and on how far its clock may be
off; a sweep on how long its readers take. So who opens a store first writes down its own windows,
and who has others is refused, before it reads or writes anything.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import astuple, fields

from ndcass.errors import IncompatibleStore, TransactionUnknown
from ndcass.store.cassandra.driver import Consistency, Row
from ndcass.store.cassandra.tables import Tables, pause
from ndcass.store.cassandra.tiers import Windows

_SCOPE = "windows"
_COLUMNS = ", ".join(field.name for field in fields(Windows))
_READ = f"SELECT {_COLUMNS} FROM agreed_windows WHERE scope = ?"
_AGREE = f"INSERT INTO agreed_windows (scope, {_COLUMNS}) VALUES (?, ?, ?, ?) IF NOT EXISTS"
_SET = "UPDATE agreed_windows SET " + ", ".join(f"{field.name} = ?" for field in fields(Windows))
_CHANGE = f"{_SET} WHERE scope = ? IF EXISTS"


async def agreed_windows(tables: Tables) -> Windows | None:
    """What was agreed on; None if nobody has opened the store yet."""
    return _windows(await tables.rows(_READ, _SCOPE, consistency=Consistency.LOCAL_SERIAL))


async def agree_on_windows(tables: Tables, windows: Windows) -> None:
    """Make sure that the windows are those of everybody.

    Raises
    ------
    IncompatibleStore
        If others keep to other ones; the error names each that differs.
    """
    found = _windows(await tables.rows(_READ, _SCOPE))
    attempt = 0
    while found is None:
        await pause(attempt)
        attempt += 1
        with contextlib.suppress(TransactionUnknown):  # the next read, which is serial, tells
            await tables.transact((_AGREE, (_SCOPE, *astuple(windows))))
        found = await agreed_windows(tables)
    differing = [
        f"cassandra.{field.name} is {getattr(windows, field.name):g} here and "
        f"{getattr(found, field.name):g} there"
        for field in fields(Windows)
        if getattr(windows, field.name) != getattr(found, field.name)
    ]
    if differing:
        raise IncompatibleStore(
            f"the gateways of this store keep to other windows: {'; '.join(differing)}. Change "
            "the settings, or, with all gateways stopped, run `ndcass schema windows --change`"
        )


async def change_windows(tables: Tables, windows: Windows) -> None:
    """Let others be agreed on from now on; nobody may have the store open."""
    attempt = 0
    while await agreed_windows(tables) != windows:
        await pause(attempt)
        attempt += 1
        with contextlib.suppress(TransactionUnknown):  # the next read tells
            changed = await tables.transact((_CHANGE, (*astuple(windows), _SCOPE)))
            if not changed.applied:
                await tables.transact((_AGREE, (_SCOPE, *astuple(windows))))


def _windows(rows: Sequence[Row]) -> Windows | None:
    return next((Windows(*row) for row in rows), None)

"""The token that tells processes of a change of the catalogue."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

from ndcass.model import Dataset
from ndcass.store.embedded import open_embedded
from ndcass.store.embedded.catalog import EmbeddedCatalog
from ndcass.store.embedded.token import ChangeToken


def a_dataset() -> Dataset:
    return Dataset(dataset_name="d", user=1, ximagesize=1, yimagesize=1, zimagesize=1)


def test_every_opener_sees_the_same_token(tmp_path: Path) -> None:
    one, other = ChangeToken.open(tmp_path / "t"), ChangeToken.open(tmp_path / "t")
    before = one.value()
    assert other.value() == before
    other.renew()
    assert one.value() == other.value() != before


def _renew(path: str) -> None:
    ChangeToken.open(Path(path)).renew()


def test_a_token_renewed_by_another_process_is_seen(tmp_path: Path) -> None:
    token = ChangeToken.open(tmp_path / "t")
    before = token.value()
    process = multiprocessing.get_context("spawn").Process(
        target=_renew, args=(str(tmp_path / "t"),)
    )
    process.start()
    process.join(30)
    assert token.value() != before


async def test_a_change_that_fails_leaves_a_cache_that_is_right(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path / "data")
    catalog: EmbeddedCatalog = stores.catalog
    await catalog.create_dataset(a_dataset())
    user = await catalog.add_user("u")
    await catalog.add_key(user.id, b"hash")
    assert await catalog.user_of_key(b"hash") == user

    def fails(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM keys")
        raise ValueError

    with contextlib.suppress(ValueError):
        await catalog._change(fails)
    assert await catalog.user_of_key(b"hash") == user
    await stores.close()


def _revoke_and_die(folder: str) -> None:
    """Change the catalogue and end between the commit and the token, as a kill may."""

    async def main() -> None:
        stores = await open_embedded(Path(folder))
        real = stores.catalog._token.renew
        calls: list[int] = []

        def renew() -> None:
            calls.append(1)
            if len(calls) == 2:  # behind the commit
                os.kill(os.getpid(), signal.SIGKILL)
            real()

        stores.catalog._token.renew = renew  # type: ignore[method-assign]
        await stores.catalog.revoke_keys(1)

    asyncio.run(main())


async def test_a_commit_whose_process_died_is_noticed_within_a_second(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path / "data")
    user = await stores.catalog.add_user("u")
    await stores.catalog.add_key(user.id, b"hash")
    assert await stores.catalog.user_of_key(b"hash") == user
    process = multiprocessing.get_context("spawn").Process(
        target=_revoke_and_die, args=(str(tmp_path / "data"),)
    )
    process.start()
    await asyncio.to_thread(process.join, 30)
    assert process.exitcode == -signal.SIGKILL
    await asyncio.sleep(1.1)
    assert await stores.catalog.user_of_key(b"hash") is None
    await stores.close()

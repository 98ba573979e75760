import json
import re
from pathlib import Path
from typing import Any

import pytest

from ndcass.cli.main import main
from ndcass.keys import hash_key
from ndcass.model import User
from ndcass.store.embedded import open_embedded


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A store without users."""
    stores = await open_embedded(tmp_path / "data")
    await stores.close()
    return tmp_path / "data"


async def owner(folder: Path, key: str) -> User | None:
    stores = await open_embedded(folder)
    try:
        return await stores.catalog.user_of_key(hash_key(key))
    finally:
        await stores.close()


class Command:
    """Runs ``ndcass user`` outside the event loop of the test."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        import asyncio

        line = ["user", *arguments, "--data", str(self._folder)]
        code = await asyncio.to_thread(main, line)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    async def json(self, *arguments: str) -> dict[str, Any]:
        code, out, _ = await self(*arguments, "--json")
        assert code == 0
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture
def user(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(folder, capsys)


async def test_key_is_printed_once_and_works(folder: Path, user: Command) -> None:
    code, out, _ = await user("add", "ada")

    assert code == 0
    (key,) = re.findall(r"\b[0-9a-f]{40}\b", out)
    found = await owner(folder, key)
    assert found is not None
    assert (found.name, found.superuser) == ("ada", False)
    _, listed, _ = await user("list")
    assert key not in listed


async def test_superuser_is_one(folder: Path, user: Command) -> None:
    made = await user.json("add", "root", "--superuser")

    found = await owner(folder, made["key"])
    assert found is not None
    assert found.superuser


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "x" * 151, "a-b"])
async def test_odd_name_is_refused(user: Command, name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        await user("add", name)
    assert caught.value.code == 2
    assert await user.json("list") == {"users": []}


async def test_name_that_is_taken_is_refused(user: Command) -> None:
    await user("add", "ada")

    code, out, err = await user("add", "ada")

    assert (code, out) == (1, "")
    assert "ada" in err
    assert err.count("\n") == 1


async def test_revoked_key_is_worthless(folder: Path, user: Command) -> None:
    key = (await user.json("add", "ada"))["key"]

    assert await user.json("revoke", "ada") == {"user": "ada", "revoked": 1}

    assert await owner(folder, key) is None


async def test_new_key_takes_the_place_of_the_former(folder: Path, user: Command) -> None:
    former = (await user.json("add", "ada"))["key"]

    now = (await user.json("key", "ada"))["key"]

    assert await owner(folder, former) is None
    found = await owner(folder, now)
    assert found is not None
    assert found.name == "ada"


async def test_unknown_user_is_an_error(user: Command) -> None:
    for action in ("revoke", "key"):
        code, _, err = await user(action, "nobody")

        assert code == 1
        assert "nobody" in err


async def test_list_shows_all(user: Command) -> None:
    await user("add", "ada")
    await user("add", "root", "--superuser")

    listed = (await user.json("list"))["users"]

    assert [(row["user"], row["superuser"]) for row in listed] == [("ada", False), ("root", True)]


async def test_folder_without_a_store_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = Command(tmp_path / "typo", capsys)

    code, _, err = await elsewhere("add", "ada")

    assert code == 1
    assert "no store in" in err
    assert not (tmp_path / "typo").exists()

import re
from pathlib import Path

import pytest
import requests

from ndcass.cli.failure import CommandFailed
from ndcass.cli.main import main
from ndcass.cli.serve import ensure_admin
from ndcass.keys import hash_key, new_key
from ndcass.store.base import Catalog
from ndcass.store.memory import MemoryStores
from tests.processes import KEY, Gateway, StartGateway, free_port


@pytest.fixture
def catalog() -> Catalog:
    return MemoryStores().catalog


async def owner(catalog: Catalog, key: str) -> str | None:
    user = await catalog.user_of_key(hash_key(key))
    return user.name if user is not None else None


async def test_first_start_makes_an_admin(catalog: Catalog) -> None:
    key = await ensure_admin(catalog, None)

    assert key is not None
    (admin,) = await catalog.users()
    assert (admin.id, admin.name, admin.superuser) == (1, "admin", True)
    assert await owner(catalog, key) == "admin"


async def test_later_start_makes_nothing(catalog: Catalog) -> None:
    await ensure_admin(catalog, None)

    assert await ensure_admin(catalog, None) is None

    assert len(await catalog.users()) == 1


async def test_given_key_is_the_admins(catalog: Catalog) -> None:
    assert await ensure_admin(catalog, KEY) is None

    assert await owner(catalog, KEY) == "admin"
    (admin,) = await catalog.users()
    assert admin.superuser


async def test_another_given_key_takes_the_place_of_the_former(catalog: Catalog) -> None:
    former = await ensure_admin(catalog, None)
    assert former is not None

    await ensure_admin(catalog, KEY)
    await ensure_admin(catalog, KEY)

    assert await owner(catalog, KEY) == "admin"
    assert await owner(catalog, former) is None


async def test_key_of_another_user_is_refused(catalog: Catalog) -> None:
    key = new_key()
    ada = await catalog.add_user("ada")
    await catalog.add_key(ada.id, hash_key(key))

    with pytest.raises(CommandFailed, match="another user"):
        await ensure_admin(catalog, key)

    assert await owner(catalog, key) == "ada"


def test_admin_of_a_real_server_is_user_one_and_superuser(server: Gateway) -> None:
    headers = {"Authorization": f"Token {KEY}"}
    answer = requests.get(f"{server.url}/nd/resource/dataset/D/", headers=headers, timeout=30)

    assert answer.json()["user"] == 1


def test_demo_can_be_looked_at_without_a_key(start_gateway: StartGateway, tmp_path: Path) -> None:
    started = start_gateway(tmp_path / "data", "--demo", admin_key=None)

    section = requests.get(f"{started.url}/nd/sd/demo/em/xy/0/0,512/0,512/32/", timeout=30)
    page = requests.get(f"{started.url}/", timeout=30)
    refused = requests.post(
        f"{started.url}/nd/sd/demo/em/raw/0/0,1/0,1/0,1/",
        data=b"\1",
        headers={"X-Volume-Dtype": "|u1"},
        timeout=30,
    )

    assert section.ok
    assert section.content.startswith(b"\x89PNG")
    assert "demo" in page.text
    assert not refused.ok
    assert started.stop() == 0
    assert f"{started.url}/nd/sd/demo/em/xy/" in started.said()


def test_key_is_printed_at_the_first_start_only(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    said = []
    for _ in range(2):
        started = start_gateway(tmp_path / "data", admin_key=None)
        assert started.stop() == 0
        said.append(re.findall("API key of admin.* ([0-9a-f]{40})", started.said()))

    assert [len(keys) for keys in said] == [1, 0]


def test_user_made_while_the_server_runs_is_known_at_once(
    server: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["user", "add", "ada", "--data", str(server.folder)]) == 0
    (key,) = re.findall("[0-9a-f]{40}", capsys.readouterr().out)

    answer = requests.post(
        f"{server.url}/nd/resource/dataset/hers/",
        json={"dataset_name": "hers", "ximagesize": 1, "yimagesize": 1, "zimagesize": 1},
        headers={"Authorization": f"Token {key}"},
        timeout=30,
    )

    assert answer.status_code == 201, answer.text


def test_port_that_is_taken_is_said_in_one_line(
    server: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["serve", "--data", str(tmp_path / "d"), "--port", str(server.port)])

    assert code == 1
    (line,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("ndcass:")]
    assert str(server.port) in line


def test_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    for folder in ("/proc/x", str(tmp_path / "file" / "below")):
        code = main(["serve", "--data", folder, "--port", str(free_port())])

        assert code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert folder in line


def test_folder_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    code = main(["serve", "--data", str(tmp_path), "--port", str(free_port())])

    assert code == 1
    assert "neither empty nor an ndcass store" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

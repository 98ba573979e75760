"""API keys and the token rule, over HTTP."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ndcass.config import AccessSettings, Settings
from ndcass.store.embedded import open_embedded
from tests.server.running import KEYS, Running, running

SERVICES = {
    "info": "info/",
    "projinfo": "projinfo/",
    "viking": "volume.vikingxml",
    "box": "img/raw/0/0,4/0,3/0,2/",
    "slice": "img/xy/0/0,4/0,3/0/",
}
CHALLENGED = {"info", "projinfo"}


@pytest.fixture
async def volumes(app: Running) -> Running:
    """One public and one private volume of ann's."""
    await app.make_volume("open", user="ann")
    await app.make_volume("shut", user="ann", public=0)
    return app


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("user", [None, "ann", "bob", "admin"])
async def test_public_token_is_readable_by_everybody(
    volumes: Running, service: str, user: str | None
) -> None:
    assert await volumes.status(f"/nd/sd/open/{SERVICES[service]}", user=user) == 200


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("token", ["shut", "no_such_token"])
async def test_private_and_unknown_tokens_look_the_same(
    volumes: Running, service: str, token: str
) -> None:
    path = f"/nd/sd/{token}/{SERVICES[service]}"
    answer = await volumes.get(path)
    assert answer.status == (401 if service in CHALLENGED else 403)
    assert ("WWW-Authenticate" in answer.headers) is (service in CHALLENGED)
    assert "detail" in json.loads(await answer.text())
    assert await volumes.status(path, user="bob") == 403


@pytest.mark.parametrize("service", SERVICES)
async def test_private_token_is_for_its_owner_and_superusers(
    volumes: Running, service: str
) -> None:
    for user in ("ann", "admin"):
        assert await volumes.status(f"/nd/sd/shut/{SERVICES[service]}", user=user) == 200


@pytest.mark.parametrize("service", SERVICES)
async def test_superuser_is_told_that_a_token_does_not_exist(
    volumes: Running, service: str
) -> None:
    assert await volumes.status(f"/nd/sd/none/{SERVICES[service]}", user="admin") == 404


@pytest.mark.parametrize(
    ("token", "user", "status"),
    [
        ("open", None, 403),
        ("open", "bob", 200),
        ("open", "ann", 200),
        ("open", "admin", 200),
        ("shut", None, 403),
        ("shut", "bob", 403),
        ("shut", "ann", 200),
        ("shut", "admin", 200),
        ("none", None, 403),
        ("none", "bob", 403),
        ("none", "admin", 404),
    ],
)
async def test_writing_needs_a_key_and_for_a_private_token_the_right_one(
    volumes: Running, token: str, user: str | None, status: int
) -> None:
    assert (await volumes.post_ones(token, user=user)).status == status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Token {KEYS['ann']}", 200),
        (f"token {KEYS['ann']}", 200),
        (f"TOKEN   {KEYS['ann']}", 200),
        (f"Token {KEYS['bob']}", 403),
        ("Token placeholder", 401),
        ("Token", 401),
        ("Token ", 401),
        ("", 401),
        ("Basic YTpi", 401),
        (f"Bearer {KEYS['ann']}", 401),
        (f"Token {KEYS['ann']} more", 401),
        (f"Token {'x' * 5000}", 401),
        ("Token käse", 401),
    ],
)
async def test_header_is_read_as_the_contract_says(
    volumes: Running, header: str, status: int
) -> None:
    answer = await volumes.get("/nd/sd/shut/info/", headers={"Authorization": header})
    assert answer.status == status


async def test_key_of_two_words_is_refused_also_where_anybody_may_read(volumes: Running) -> None:
    for service, path in SERVICES.items():
        headers = {"Authorization": "Token two words"}
        answer = await volumes.get(f"/nd/sd/open/{path}", headers=headers)
        assert answer.status == (401 if service in CHALLENGED else 403)


async def test_revoked_key_is_worth_nothing_at_once(volumes: Running) -> None:
    ann = await volumes.stores.catalog.user("ann")
    assert await volumes.status("/nd/sd/shut/info/", user="ann") == 200
    await volumes.stores.catalog.revoke_keys(ann.id)
    assert await volumes.status("/nd/sd/shut/info/", user="ann") == 401


async def test_token_made_private_is_private_at_once(volumes: Running) -> None:
    path = "/nd/resource/dataset/open/project/open/token/open/"
    assert await volumes.status("/nd/sd/open/info/") == 200
    assert (await volumes.request("PUT", path, user="ann", json={"public": 0})).status == 200
    assert await volumes.status("/nd/sd/open/info/") == 401


# -- opened by the settings


@pytest.fixture
async def opened(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    stores = await open_embedded(tmp_path / "data")
    try:
        async with running(stores, Settings(access=request.param)) as found:
            await found.make_volume("open")
            await found.make_volume("shut", public=0)
            yield found
    finally:
        await stores.close()


@pytest.mark.parametrize("opened", [AccessSettings(public_write=True)], indirect=True)
async def test_setting_opens_public_tokens_to_writers_without_a_key(opened: Running) -> None:
    assert (await opened.post_ones("open", user=None)).status == 200
    assert (await opened.post_ones("shut", user=None)).status == 403


@pytest.mark.parametrize(
    "opened", [AccessSettings(public_write_channels=("open/img", "shut/img"))], indirect=True
)
async def test_setting_opens_single_channels_of_public_tokens(opened: Running) -> None:
    headers = {"X-Volume-Dtype": "|u1"}

    async def status(token: str, channels: str) -> int:
        path = f"/nd/sd/{token}/{channels}raw/0/0,4/0,3/0,2/"
        return (await opened.request("POST", path, data=b"\1" * 24, headers=headers)).status

    assert await status("open", "img/") == 200
    assert await status("open", "lab/") == 403
    assert await status("open", "img,lab/") == 403
    assert await status("open", "none/") == 403
    assert await status("open", "") == 403
    assert await status("shut", "img/") == 403
    path = "/nd/resource/dataset/open/project/open/channel/img/"
    assert (await opened.request("PUT", path, user="admin", json={"default": True})).status == 200
    assert await status("open", "") == 200

"""Overlays over HTTP: layers of this server, of others, and of those that may not be asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from ndcass.composite import blended
from ndcass.config import PictureSettings, ServerSettings, Settings
from ndcass.picture import false_colour
from ndcass.server import foreign
from ndcass.server.formats.png import encode_png
from ndcass.store.memory import MemoryStores
from tests.server.pictured import inside, make_pictured, picture
from tests.server.running import KEYS, Running, running

PLANE = "0/460,520/110,160/9/"
INSIDE = (9, slice(110, 160), slice(460, 520))


def netloc(app: Running) -> str:
    return f"{app.client.host}:{app.client.port}"


def overlay(app: Running, alpha: str, first: str, second: str, rest: str = f"xy/{PLANE}") -> str:
    """The path of an overlay of two layers of this server."""
    here = netloc(app)
    return f"/nd/overlay/{alpha}/{here}/{first}/{here}/{second}/{rest}"


@pytest.mark.parametrize("alpha", ["0", "1", "1.0", ".5", "0.5", "0.25", "0.33", "0.0"])
async def test_layers_of_this_server_are_blended(pictured: Running, alpha: str) -> None:
    found = await picture(pictured, overlay(pictured, alpha, "v/lab", "v/u8"))
    labels = false_colour(inside(*INSIDE, "lab"))
    assert np.array_equal(found, blended(labels, inside(*INSIDE, "u8"), float(alpha)))


@pytest.mark.parametrize("rest", ["xz/0/460,520/110/5,20/", "yz/0/460/110,160/5,20/"])
async def test_planes_across_are_stretched_as_slices(pictured: Running, rest: str) -> None:
    found = await picture(pictured, overlay(pictured, ".5", "v/lab", "v/u16", rest))
    first = await picture(pictured, f"/nd/sd/v/lab/{rest}")
    second = await picture(pictured, f"/nd/sd/v/u16/{rest}")
    assert np.array_equal(found, blended(first, second, 0.5))


async def test_arguments_behind_the_plane_are_for_both_layers(pictured: Running) -> None:
    rest = f"xy/{PLANE}window/0,90/"
    found = await picture(pictured, overlay(pictured, ".5", "v/u8w", "v/u8", rest))
    first = await picture(pictured, f"/nd/sd/v/u8w/{rest}")
    second = await picture(pictured, f"/nd/sd/v/u8/{rest}")
    assert np.array_equal(found, blended(first, second, 0.5))


async def test_a_layer_may_be_the_default_channel(pictured: Running) -> None:
    found = await picture(pictured, overlay(pictured, "1", "v/default", "v/lab"))
    assert np.array_equal(found[..., 0], inside(*INSIDE, "u8"))


@pytest.mark.parametrize("alpha", ["2", "1.5", "1.00", "0.123", "00.5", "1.", "-0.5", "x", "0,5"])
async def test_other_spellings_of_alpha_are_404(pictured: Running, alpha: str) -> None:
    assert await pictured.status(overlay(pictured, alpha, "v/lab", "v/u8")) == 404


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        ("v/nobody", f"xy/{PLANE}"),
        ("v/lab,u8", f"xy/{PLANE}"),
        ("v/lab", f"zz/{PLANE}"),
        ("v/lab", "xy/0/0,10/0,10/9/"),
        ("v/lab", "xy/0/460,520/110,160/9"),
        ("v/lab", f"xy/{PLANE}filter/1/"),
        ("v/lab", f"xy/{PLANE}window/7,7/"),
    ],
)
async def test_senseless_layers_are_404(pictured: Running, first: str, rest: str) -> None:
    assert await pictured.status(overlay(pictured, ".5", first, "v/u8", rest)) == 404


async def test_both_layers_need_permission(pictured: Running) -> None:
    await make_pictured(pictured, "shut", public=0)
    for first, second in (("shut/lab", "v/u8"), ("v/lab", "shut/u8")):
        path = overlay(pictured, ".5", first, second)
        assert await pictured.status(path) == 403
        assert await pictured.status(path, user="bob") == 403
        assert await pictured.status(path, user="admin") == 200


async def test_too_large_layers_are_413() -> None:
    settings = Settings(server=ServerSettings(max_slice_bytes=4 * 50 * 60 - 1))
    async with running(MemoryStores(), settings) as app:
        await app.make_volume("w", ximagesize=700, yimagesize=620)
        answer = await app.get(overlay(app, ".5", "w/lab", "w/img"))
        assert answer.status == 413
        assert str(4 * 50 * 60) in await answer.text()


async def test_an_overlay_says_whether_its_layers_are_fresh(app: Running) -> None:
    await app.make_volume("w", scalinglevels=1)
    body = {"channel_name": "p", "channel_type": "image", "channel_datatype": "uint8"}
    await app.make("dataset/w/project/w/channel/p/", {**body, "propagate": 1})
    fine = await app.get(overlay(app, ".5", "w/p", "w/img", "xy/0/0,9/0,9/0/"))
    assert (fine.status, fine.headers.get("X-Volume-Fresh")) == (200, None)
    coarse = await app.get(overlay(app, ".5", "w/p", "w/img", "xy/1/0,9/0,9/0/"))
    assert (coarse.status, coarse.headers.get("X-Volume-Fresh")) == (200, "true")


# -- other servers

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def stranger(answer: Answer) -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """Another server, by its host:port, and the requests that it got."""
    requests: list[web.BaseRequest] = []

    async def note(request: web.BaseRequest) -> web.StreamResponse:
        requests.append(request)
        return await answer(request)

    runner = web.ServerRunner(web.Server(note))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"{host}:{port}", requests
    finally:
        await runner.cleanup()


def png_of(pixels: Any) -> Answer:
    """Answers everything with a picture."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=encode_png(pixels), content_type="image/png")

    return answer


@contextlib.asynccontextmanager
async def asking(server: str, limits: ServerSettings | None = None) -> AsyncIterator[Running]:
    """A gateway that may ask a server."""
    allowed = PictureSettings(overlay_servers=(f"http://{server}",))
    settings = Settings(server=limits or ServerSettings(), pictures=allowed)
    async with running(MemoryStores(), settings) as app:
        await make_pictured(app)
        yield app


GREY = np.full((50, 60), 90, dtype=np.uint8)


async def test_an_allowed_server_is_asked_for_the_slice_and_nothing_else() -> None:
    async with stranger(png_of(GREY)) as (server, requests), asking(server) as app:
        path = (
            f"/nd/overlay/.5/{netloc(app)}/v/lab/{server}/tok/chan/xy/"
            "0/460,520/110,160/9/3/neariso/../../etc/window/0,9/"
        )
        answer = await app.get(path, user="admin", headers={"Cookie": "secret=1"})
        assert answer.status == 200
        asked = "/ocp/ca/tok/chan/xy/0/460,520/110,160/9/3/neariso/window/0,9/"
        assert [request.path_qs for request in requests] == [asked]
        sent = {name.lower() for name in requests[0].headers}
        assert not sent & {"authorization", "cookie"}
        assert KEYS["admin"] not in str(requests[0].headers)
        plain = f"/nd/overlay/.5/{netloc(app)}/v/lab/{server}/tok/chan/xy/{PLANE}"
        found = await picture(app, plain)
        assert np.array_equal(found, blended(false_colour(inside(*INSIDE, "lab")), GREY, 0.5))


async def test_no_server_is_asked_that_is_not_allowed(pictured: Running) -> None:
    async with stranger(png_of(GREY)) as (server, requests):
        for other in (server, "localhost", f"127.0.0.1:{pictured.client.port}1", "[::1]:80"):
            path = f"/nd/overlay/.5/{other}/v/lab/{netloc(pictured)}/v/u8/xy/{PLANE}"
            answer = await pictured.get(path)
            assert answer.status == 404
            assert "neither this server nor one that it may ask" in await answer.text()
        assert not requests


async def test_a_server_answers_to_its_other_names() -> None:
    settings = Settings(pictures=PictureSettings(own_names=("Brain.example",)))
    async with running(MemoryStores(), settings) as app:
        await make_pictured(app)
        path = f"/nd/overlay/1/brain.example/v/u8/{netloc(app)}/v/u8w/xy/{PLANE}"
        assert np.array_equal((await picture(app, path))[..., 0], inside(*INSIDE, "u8"))


async def fails(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=500)


async def redirects(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


async def sends_text(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="<html>")


async def sends_half(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=encode_png(GREY)[:60], content_type="image/png")


async def hangs(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(5)
    return web.Response()


@pytest.mark.parametrize(
    "answer",
    [fails, redirects, sends_text, sends_half, hangs, png_of(np.zeros((9, 9), dtype=np.uint8))],
)
async def test_a_layer_that_does_not_come_is_404(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "TIMEOUT_S", 0.5)
    async with stranger(answer) as (server, _), asking(server) as app:
        path = f"/nd/overlay/.5/{server}/tok/chan/{netloc(app)}/v/u8/xy/{PLANE}"
        assert await app.status(path) == 404


async def test_a_server_that_is_gone_is_404() -> None:
    async with stranger(fails) as (server, _):
        pass
    async with asking(server) as app:
        path = f"/nd/overlay/.5/{server}/tok/chan/{netloc(app)}/v/u8/xy/{PLANE}"
        assert await app.status(path) == 404


async def test_a_layer_larger_than_a_slice_may_be_is_404() -> None:
    """A picture of zeros packs to nearly nothing."""
    bomb = png_of(np.zeros((4000, 4000), dtype=np.uint8))
    limits = ServerSettings(max_slice_bytes=4 * 4000 * 4000 - 1)
    async with stranger(bomb) as (server, _), asking(server, limits) as app:
        path = f"/nd/overlay/.5/{server}/tok/chan/{netloc(app)}/v/u8/xy/{PLANE}"
        answer = await app.get(path)
        assert answer.status == 404
        assert "4000x4000" in await answer.text()

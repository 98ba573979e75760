"""Synaptograms and the way to the viewer, over HTTP."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ndcass.config import PictureSettings, ServerSettings, Settings
from ndcass.picture import false_colour, window
from ndcass.store.memory import MemoryStores
from tests.server.pictured import Voxels, inside, make_pictured
from tests.server.running import Running, running

BOX = "0/460,520/110,160/5,9/"
INSIDE = (slice(5, 9), slice(110, 160), slice(460, 520))


async def shown(app: Running, path: str) -> dict[str, Any]:
    """The document of a synaptogram; `Any` is what JSON can hold."""
    answer = await app.get(f"/nd/synaptogram/{path}")
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "application/json"
    found: dict[str, Any] = json.loads(await answer.read())
    return found


def pixels(text: str) -> Voxels:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image)


async def test_each_section_of_each_channel_is_a_picture(pictured: Running) -> None:
    found = await shown(pictured, f"v/u8,u16,lab/xy/{BOX}")
    assert sorted(found) == ["lab", "lab.dtype", "shape", "u16", "u16.dtype", "u8", "u8.dtype"]
    assert found["shape"] == [4, 50, 60]
    assert [found[f"{name}.dtype"] for name in ("u8", "u16", "lab")] == ["uint8", "uint8", "uint32"]
    for z in range(4):
        assert np.array_equal(pixels(found["u8"][z]), inside(*INSIDE, "u8")[z])
        windowed = window(inside(*INSIDE, "u16")[z], 1000, 50000)
        assert np.array_equal(pixels(found["u16"][z]), windowed)
        assert np.array_equal(pixels(found["lab"][z]), false_colour(inside(*INSIDE, "lab")[z]))


async def test_the_plane_has_no_meaning_and_arguments_have(pictured: Running) -> None:
    found = await shown(pictured, f"v/lab/yz/{BOX}window/0,500/")
    assert found["lab.dtype"] == "uint8"
    expected = window(inside(*INSIDE, "lab")[1], 0, 500)
    assert np.array_equal(pixels(found["lab"][1]), expected)
    assert await shown(pictured, f"v/lab/xy/{BOX}window/0,500/") == found


@pytest.mark.parametrize(
    "path",
    [
        f"v/nobody/xy/{BOX}",
        f"v/u8,0/xy/{BOX}",
        f"v/u8/zz/{BOX}",
        f"v/u8/{BOX}",
        "v/u8/xy/0/460,460/110,160/5,9/",
        "v/u8/xy/0/460,470/110,160/5,99/",
        f"v/u8/xy/{BOX}filter/3/",
        f"v/u8/xy/{BOX}window/3,3/",
    ],
)
async def test_senseless_synaptograms_are_404(pictured: Running, path: str) -> None:
    assert await pictured.status(f"/nd/synaptogram/{path}") == 404


async def test_private_synaptograms_need_permission(pictured: Running) -> None:
    await make_pictured(pictured, "shut", public=0)
    assert await pictured.status(f"/synaptogram/shut/u8/xy/{BOX}") == 403
    assert await pictured.status(f"/synaptogram/shut/u8/xy/{BOX}", user="admin") == 200


async def test_too_large_is_413_with_both_sizes() -> None:
    asked = 4 * 4 * 50 * 60
    settings = Settings(server=ServerSettings(max_slice_bytes=asked - 1))
    async with running(MemoryStores(), settings) as app:
        await app.make_volume("w", ximagesize=700, yimagesize=620)
        answer = await app.get(f"/nd/synaptogram/w/img/xy/{BOX}")
        text = await answer.text()
        assert answer.status == 413
        assert str(asked) in text
        assert str(asked - 1) in text


async def test_too_many_sections_are_413(app: Running) -> None:
    await app.make_volume("w", zimagesize=100_000)
    answer = await app.get("/nd/synaptogram/w/img/xy/0/0,1/0,1/0,65537/")
    assert answer.status == 413
    assert "65536 sections" in await answer.text()


# -- the viewer


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/nd/viz/project/a/0,1/", "/project/a/0,1/"),
        ("/viz/a.b/c:d->e", "/a.b/c:d-%3Ee"),
        ("/ocp/viz/a/?x=1", "/a/"),
        ("/viz/a%0d%0aSet-Cookie:x", "/a%0D%0ASet-Cookie:x"),
        ("/viz/%C3%BC", "/%C3%BC"),
        ("/viz///evil.example/", "/evil.example/"),
    ],
)
async def test_the_way_to_the_viewer_keeps_the_path(app: Running, path: str, location: str) -> None:
    answer = await app.get(path)
    assert answer.status == 301
    assert answer.headers["Location"] == f"http://viz.neurodata.io{location}"
    assert await answer.read() == b""


async def test_there_is_no_viewer_of_nothing(app: Running) -> None:
    assert await app.status("/nd/viz/") == 404
    assert await app.status("/nd/viz") == 404


async def test_the_viewer_may_be_elsewhere() -> None:
    settings = Settings(pictures=PictureSettings(viz_server="https://viewer.example/"))
    async with running(MemoryStores(), settings) as app:
        answer = await app.get("/viz/a/b")
        assert answer.headers["Location"] == "https://viewer.example/a/b"

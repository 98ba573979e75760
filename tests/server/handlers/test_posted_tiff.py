"""TIFF uploads over HTTP."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from aiohttp import ClientResponse

from ndcass.config import ServerSettings, Settings
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running

Voxels = npt.NDArray[Any]

PAGES = np.random.default_rng(7).integers(0, 255, (20, 30, 40), dtype=np.uint8)


def tiff_of(pages: Voxels, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pages, photometric="minisblack", **options)
    return stream.getvalue()


async def post(
    app: Running, path: str, body: bytes, *, user: str | None = "admin"
) -> ClientResponse:
    return await app.request("POST", f"/nd/sd/v/{path}", user=user, data=body)


async def voxels(app: Running, path: str) -> Voxels:
    found: Voxels = (await app.read(f"v/{path}"))[0]
    return found


@pytest.fixture(autouse=True)
async def volume(app: Running) -> None:
    await app.make_volume("v", zoffset=1, zimagesize=40, scalinglevels=1)


@pytest.mark.parametrize("compression", [None, "zlib"])
async def test_pages_become_sections_from_the_corner_on(
    app: Running, compression: str | None
) -> None:
    answer = await post(app, "img/tiff/0/100/50/9/", tiff_of(PAGES, compression=compression))
    assert (answer.status, await answer.text()) == (200, "Success")
    assert answer.headers["Content-Type"] == "text/html"
    assert np.array_equal(await voxels(app, "img/raw/0/100,140/50,80/9,29/"), PAGES)
    assert not (await voxels(app, "img/raw/0/0,100/0,200/1,41/")).any()


async def test_zeros_leave_what_is_there_unless_all_is_replaced(app: Running) -> None:
    await post(app, "img/tiff/0/0/0/1/", tiff_of(np.full((1, 2, 2), 9, "u1")))
    page = tiff_of(np.array([[[0, 3], [4, 0]]], "u1"))
    assert (await post(app, "img/tiff/0/0/0/1/", page)).status == 200
    assert (await voxels(app, "img/raw/0/0,2/0,2/1,2/")).tolist() == [[[9, 3], [4, 9]]]
    assert (await post(app, "img/tiff/0/0/0/1/?write=replace", page)).status == 200
    assert (await voxels(app, "img/raw/0/0,2/0,2/1,2/")).tolist() == [[[0, 3], [4, 0]]]


async def test_labels_are_posted_too(app: Running) -> None:
    labels = np.array([[[0, 4_000_000_000], [7, 1]]], "u4")
    assert (await post(app, "lab/tiff/0/3/4/5", tiff_of(labels))).status == 200
    assert np.array_equal(await voxels(app, "lab/raw/0/3,5/4,6/5,6/"), labels)


@pytest.mark.parametrize(
    ("path", "pages"),
    [
        ("img/tiff/0/0/0/0/", PAGES),  # below the offset
        ("img/tiff/0/0/0/22/", PAGES),  # one section too many
        ("img/tiff/0/261/0/1/", PAGES),
        ("img/tiff/0/0/171/1/", PAGES),
        ("img/tiff/0/300/0/1/", PAGES),
        ("img/tiff/1/0/0/1/", PAGES),  # made from level 0
        ("img/tiff/2/0/0/1/", PAGES),
        ("img/tiff/0/0,40/0,30/1,21/", PAGES),
        ("img/tiff/0/0/0/", PAGES),
        ("img/tiff/0/0/0/1/", PAGES.astype("u2")),
        ("lab/tiff/0/0/0/1/", PAGES),
        ("img,img/tiff/0/0/0/1/", PAGES),
        ("none/tiff/0/0/0/1/", PAGES),
        ("tiff/0/0/0/1/", PAGES),  # no default channel
    ],
)
async def test_what_does_not_fit_is_not_found_and_changes_nothing(
    app: Running, path: str, pages: Voxels
) -> None:
    answer = await post(app, path, tiff_of(pages))
    assert answer.status == 404, await answer.text()
    assert not (await voxels(app, "img/raw/0/0,300/0,200/1,41/")).any()


@pytest.mark.parametrize("body", [b"", b"II*\0", b"no TIFF at all", tiff_of(PAGES)[:9000]])
async def test_bodies_that_are_no_tiff_change_nothing(app: Running, body: bytes) -> None:
    answer = await post(app, "img/tiff/0/0/0/1/", body)
    assert answer.status == 404, await answer.text()
    assert not (await voxels(app, "img/raw/0/0,300/0,200/1,41/")).any()


async def test_more_pages_than_sections_are_refused_without_a_look_at_them(app: Running) -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for _ in range(500):
            file.write(np.ones((1, 1), "u1"), photometric="minisblack", contiguous=False)
    answer = await post(app, "img/tiff/0/0/0/38/", stream.getvalue())
    assert answer.status == 404
    assert "more pages than the 3 that fit" in await answer.text()


async def test_who_may_not_write_is_told_before_the_body(app: Running) -> None:
    await app.make_volume("secret", user="ann", public=0)
    body = tiff_of(PAGES)
    assert (await post(app, "img/tiff/0/0/0/1/", body, user=None)).status == 403
    path = "/nd/sd/secret/img/tiff/0/0/0/0/"
    answer = await app.request("POST", path, user="bob", data=body)
    assert answer.status == 403


async def test_a_read_only_channel_stays_as_it_is(app: Running) -> None:
    body = {"channel_type": "image", "channel_datatype": "uint8", "readonly": 1}
    await app.make("dataset/v/project/v/channel/ro/", {"channel_name": "ro", **body})
    assert (await post(app, "ro/tiff/0/0/0/1/", tiff_of(PAGES))).status == 404


async def test_more_voxels_than_a_body_may_have_are_refused() -> None:
    """Also where they are packed into a small file."""
    limits = ServerSettings(max_body_bytes=20_000)
    async with running(MemoryStores(), Settings(server=limits)) as app:
        await app.make_volume("v")
        packed = tiff_of(np.zeros((20, 30, 40), np.uint8), compression="zlib")
        assert len(packed) < 20_000
        answer = await post(app, "img/tiff/0/0/0/0/", packed)
        assert answer.status == 413
        assert "20000" in await answer.text()

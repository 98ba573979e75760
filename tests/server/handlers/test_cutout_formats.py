"""GET jpeg, tiff and diff over HTTP: which channels, times, windows and filters they show."""

import io
import pickle
from typing import Any

import blosc
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from ndcass.config import ServerSettings, Settings
from ndcass.server.formats.blosc import encode_blosc
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running

Voxels = npt.NDArray[Any]

# x 10..26, y 20..28, z 2..5, t 3..5
BOX = "0/10,26/20,28/2,5"
SHAPE = (2, 3, 8, 16)
CHANNELS = {
    "u8": ("timeseries", "uint8"),
    "u16": ("timeseries", "uint16"),
    "f32": ("timeseries", "float32"),
    "seg": ("annotation", "uint32"),
}


@pytest.fixture
async def volume(app: Running) -> dict[str, Voxels]:
    """What is in the channels of a volume `v` at t 3 and 4; at 0 there is that of t 3 again."""
    await app.make_volume("v", zoffset=1)
    rng = np.random.default_rng(5)
    written = {}
    for name, (kind, datatype) in CHANNELS.items():
        body = {"channel_name": name, "channel_type": kind, "channel_datatype": datatype}
        await app.make(f"dataset/v/project/v/channel/{name}/", body)
        voxels = rng.integers(1, 250, SHAPE).astype(np.dtype(datatype).newbyteorder("<"))
        for tail, part in (("3,5/", voxels), ("", voxels[0])):
            assert await app.write(f"v/{name}/raw/{BOX}/{tail}", part) == 200
        written[name] = voxels
    return written


async def jpeg(app: Running, path: str) -> Voxels:
    answer = await app.get(f"/nd/sd/v/{path}")
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "product/jpeg"
    assert "ndcutout.jpeg" in answer.headers["Content-Disposition"]
    return np.asarray(Image.open(io.BytesIO(await answer.read())))


async def tiff(app: Running, path: str) -> Voxels:
    answer = await app.get(f"/nd/sd/v/{path}")
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "image/tiff"
    assert "ndcutout.tif" in answer.headers["Content-Disposition"]
    with tifffile.TiffFile(io.BytesIO(await answer.read())) as file:
        return np.stack([page.asarray() for page in file.pages])


async def diff(app: Running, path: str) -> Voxels:
    answer = await app.get(f"/nd/sd/v/{path}")
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "product/blosc"
    content = blosc.decompress(await answer.read())
    found: Voxels = pickle.loads(content, encoding="latin1")
    return found


async def test_jpeg_with_time_stacks_timestep_after_timestep(
    app: Running, volume: dict[str, Voxels]
) -> None:
    shown = (await jpeg(app, f"u8/jpeg/{BOX}/3,5/")).astype(int)
    assert shown.shape == (2 * 3 * 8, 16)
    assert np.abs(shown - volume["u8"].reshape(shown.shape)).mean() < 12


async def test_jpeg_shows_the_first_channel_and_knows_the_others(
    app: Running, volume: dict[str, Voxels]
) -> None:
    alone = await jpeg(app, f"u8/jpeg/{BOX}/")
    assert np.array_equal(await jpeg(app, f"u8,img,0/jpeg/{BOX}/"), alone)
    assert await app.status(f"/nd/sd/v/u8,none/jpeg/{BOX}/") == 404
    assert await app.status(f"/nd/sd/v/u8,u16/jpeg/{BOX}/") == 404


async def test_jpeg_of_floats_needs_a_window(app: Running, volume: dict[str, Voxels]) -> None:
    assert await app.status(f"/nd/sd/v/f32/jpeg/{BOX}/") == 404
    shown = await jpeg(app, f"f32/jpeg/{BOX}/window/0,250/")
    assert shown.shape == (24, 16)


async def test_jpeg_of_a_filter_shows_nothing_else(app: Running, volume: dict[str, Voxels]) -> None:
    assert not (await jpeg(app, f"seg/jpeg/{BOX}/filter/4000000000/")).any()


async def test_tiff_has_the_pages_of_one_channel_after_the_other(
    app: Running, volume: dict[str, Voxels]
) -> None:
    pages = await tiff(app, f"u8,u8/tiff/{BOX}/")
    assert np.array_equal(pages, np.concatenate([volume["u8"][0]] * 2))
    assert np.array_equal(await tiff(app, f"f32/tiff/{BOX}/"), volume["f32"][0])


async def test_tiff_takes_window_and_filter(app: Running, volume: dict[str, Voxels]) -> None:
    labels = volume["seg"][0]
    some = labels[0, 0, 0]
    pages = await tiff(app, f"seg/tiff/{BOX}/filter/{some}/")
    assert np.array_equal(pages, np.where(labels == some, labels, 0))
    pages = await tiff(app, f"u16/tiff/{BOX}/window/0,0/")
    assert pages.dtype == np.uint8
    assert np.array_equal(pages, volume["u16"][0])


@pytest.mark.parametrize(
    "path",
    [
        f"u8/tiff/{BOX}/3,5/",
        f"u8,0/tiff/{BOX}/",
        f"u8,u16/tiff/{BOX}/",
        f"u8/tiff/{BOX}/filter/3/",
        f"none/tiff/{BOX}/",
        "u8/tiff/0/0,1/0,1/0,1/",
        f"u8,0/diff/{BOX}/",
        f"u8/diff/{BOX}/window/9,3/",
        f"u8/jpeg/{BOX}/4,4/",
    ],
)
async def test_what_makes_no_sense_is_not_found(
    app: Running, volume: dict[str, Voxels], path: str
) -> None:
    assert await app.status(f"/nd/sd/v/{path}") == 404


async def test_diff_runs_along_time_or_else_along_z(
    app: Running, volume: dict[str, Voxels]
) -> None:
    a, b = volume["u16"].astype(np.float32)
    found = await diff(app, f"u16/diff/{BOX}/3,5/")
    assert found.dtype == np.float32
    assert np.array_equal(found, (a - b)[np.newaxis, np.newaxis])
    assert np.array_equal(await diff(app, f"u16/diff/{BOX}/"), (a[:-1] - a[1:])[np.newaxis])


async def test_diff_of_several_channels_of_any_types(
    app: Running, volume: dict[str, Voxels]
) -> None:
    found = await diff(app, f"u8,f32,seg/diff/{BOX}/")
    for channel, name in zip(found, ("u8", "f32", "seg"), strict=True):
        voxels = volume[name][0].astype(np.float32)
        assert np.array_equal(channel, voxels[:-1] - voxels[1:])


async def test_a_window_counts_for_every_channel_of_a_list(
    app: Running, volume: dict[str, Voxels]
) -> None:
    found = await app.read(f"v/u16,u16/raw/{BOX}/window/10,265/")
    expected = np.clip(volume["u16"][0].astype(int), 10, 265) - 10
    assert np.array_equal(found[0], expected)
    assert np.array_equal(found[1], expected)


async def test_blaze_takes_what_blosc_takes(app: Running, volume: dict[str, Voxels]) -> None:
    """Also what is not aligned with cuboids."""
    voxels = volume["u16"]
    body = encode_blosc(voxels[np.newaxis] + np.uint16(1))
    path = f"/nd/sd/v/u16/blaze/{BOX}/3,5/"
    answer = await app.request("POST", path, user="admin", data=body)
    assert (answer.status, await answer.text()) == (200, "Success")
    assert np.array_equal((await app.read(f"v/u16/raw/{BOX}/3,5/"))[0], voxels + 1)
    wrong = await app.request("POST", f"/nd/sd/v/u16/blaze/{BOX}/", user="admin", data=body)
    assert wrong.status == 404
    assert await app.status(path) == 400


async def test_head_knows_how_long_a_tiff_is(app: Running, volume: dict[str, Voxels]) -> None:
    path = f"/nd/sd/v/u8/tiff/{BOX}/"
    head = await app.request("HEAD", path)
    assert head.status == 200
    assert head.headers["Content-Length"] == str(len(await (await app.get(path)).read()))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("img/jpeg/0/0,1/0,200/0,20/", "1000"),
        ("img/diff/0/0,100/0,2/0,2/", "1600"),
        ("img/tiff/0/0,100/0,2/0,10/", "1000"),
        ("img/jpeg/0/0,1/0,1/0,1/0,65536/", "65500"),
    ],
)
async def test_answers_that_are_too_large_say_the_limit(path: str, said: str) -> None:
    limits = ServerSettings(max_whole_bytes=1000, max_cutout_bytes=1000)
    async with running(MemoryStores(), Settings(server=limits)) as app:
        await app.make_volume("v")
        answer = await app.get(f"/nd/sd/v/{path}")
        assert answer.status == 413
        assert said in await answer.text()

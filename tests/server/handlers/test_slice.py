"""Slices over HTTP: what they show, and what is refused."""

import numpy as np
import pytest

from ndcass.config import ServerSettings, Settings
from ndcass.picture import false_colour, window
from ndcass.store.memory import MemoryStores
from tests.server.pictured import CORNER, SHAPE, inside, make_pictured, picture, post
from tests.server.running import Running, running

PLANE = "0/460,520/110,160/9/"
INSIDE = (9, slice(110, 160), slice(460, 520))


async def test_planes_are_stretched_to_the_shape_of_a_voxel(pictured: Running) -> None:
    """A voxel is twice as high as it is wide."""
    xz = await picture(pictured, "/nd/sd/v/u8/xz/0/460,520/120/5,20/")
    assert np.array_equal(xz, inside(slice(5, 20), 120, slice(460, 520), "u8").repeat(2, axis=0))
    yz = await picture(pictured, "/nd/sd/v/u8/yz/0/470/110,160/5,20/")
    assert np.array_equal(yz, inside(slice(5, 20), slice(110, 160), 470, "u8").repeat(2, axis=0))


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("u8", None),
        ("u8w", None),
        ("u16", (1000, 50000)),
        ("i16", (-20000, 20000)),
        ("f32", (0, 1)),
    ],
)
async def test_the_window_of_the_channel_is_not_for_bytes(
    pictured: Running, name: str, ends: tuple[int, int] | None
) -> None:
    found = await picture(pictured, f"/nd/sd/v/{name}/xy/{PLANE}")
    voxels = inside(*INSIDE, name)
    assert np.array_equal(found, voxels if ends is None else window(voxels, *ends))


async def test_four_bytes_are_colours_and_opacity(pictured: Running) -> None:
    found = await picture(pictured, f"/nd/sd/v/rgba/xy/{PLANE}")
    assert np.array_equal(found, inside(*INSIDE, "rgba").view("u1").reshape(50, 60, 4))


async def test_arguments_stand_in_any_order_and_others_are_ignored(pictured: Running) -> None:
    tail = f"{PLANE}0/junk/filter/7,9/direct/window/0,300/neariso/"
    found = await picture(pictured, f"/nd/sd/v/lab/xy/{tail}")
    labels = inside(*INSIDE, "lab")
    assert np.array_equal(found, window(np.where(np.isin(labels, [7, 9]), labels, 0), 0, 300))


@pytest.mark.parametrize("tail", ["window/0,9", "filter/7", "neariso"])
async def test_an_argument_without_its_slash_is_ignored(pictured: Running, tail: str) -> None:
    found = await picture(pictured, f"/nd/sd/v/lab/xy/{PLANE}{tail}")
    assert np.array_equal(found, false_colour(inside(*INSIDE, "lab")))


async def test_a_timestep_needs_no_slash(pictured: Running) -> None:
    await post(pictured, "v/series", np.full(SHAPE, 9, dtype="u1"), CORNER, t=70)
    for tail in ("70", "70/", "0070/window/0,0/"):
        assert (await picture(pictured, f"/nd/sd/v/series/xy/{PLANE}{tail}") == 9).all()


@pytest.mark.parametrize(
    "path",
    [
        f"u8,u8w/xy/{PLANE}",
        f"nobody/xy/{PLANE}",
        f"u8/xw/{PLANE}",
        f"u8/xy/{PLANE[:-1]}",
        "u8/xy/0/460,460/110,160/9/",
        "u8/xy/0/520,460/110,160/9/",
        "u8/xy/0/460,800/110,160/9/",
        "u8/xy/0/2,460/110,160/9/",
        "u8/xy/0/460,520/110,160/1/",
        "u8/xy/0/460,520/110,160/42/",
        "u8/xy/2/10,20/10,20/9/",
        "u8/xy/0/-460,520/110,160/9/",
        "u8/xy/0/460/110,160/9/",
        f"u8/xy/{PLANE}99999999999999999999/",
        f"u8/xy/{PLANE}window/5,5/",
        f"u8/xy/{PLANE}window/9,5/",
        f"u8/xy/{PLANE}window/0,5.5/",
        f"u8/xy/{PLANE}window/a,5/",
        f"u8/xy/{PLANE}window/5/",
        f"f32/xy/{PLANE}window/0,0.{'0' * 30}1/",
        f"u8/xy/{PLANE}filter/5/",
        f"lab/xy/{PLANE}filter/5,/",
        f"lab/xy/{PLANE}filter/-5/",
        f"lab/xy/{PLANE}filter/{'9' * 30}/",
    ],
)
async def test_senseless_slices_are_404(pictured: Running, path: str) -> None:
    assert await pictured.status(f"/nd/sd/v/{path}") == 404


@pytest.mark.parametrize(
    ("voxel", "path", "asked"),
    [
        (1.0, "xy/0/0,700/0,620/0/", 4 * 700 * 620),
        # Few voxels, but each of them is as high as a house.
        (1e6, "xz/0/0,10/0/0,20/", 4 * 10 * 20_000_000),
        # A hundredth of a row a slice: few pixels, but many voxels.
        (0.01, "xz/0/0,700/0/0,1000/", 4 * 700 * 1000),
    ],
)
async def test_enormous_slices_are_413_with_the_limit(voxel: float, path: str, asked: int) -> None:
    settings = Settings(server=ServerSettings(max_slice_bytes=1 << 20))
    async with running(MemoryStores(), settings) as app:
        await app.make_volume("w", zvoxelres=voxel, ximagesize=700, yimagesize=620, zimagesize=1000)
        answer = await app.get(f"/nd/sd/w/img/{path}")
        text = await answer.text()
        assert answer.status == 413, text
        assert str(asked) in text
        assert str(1 << 20) in text


async def test_private_slices_need_permission(app: Running) -> None:
    await make_pictured(app, "shut", public=0)
    path = f"/nd/sd/shut/u8/xy/{PLANE}"
    assert await app.status(path) == 403
    assert await app.status(path, user="admin") == 200

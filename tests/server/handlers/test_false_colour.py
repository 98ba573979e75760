"""Several channels in a colour each, over HTTP: slices (`sd`) and tiles."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndcass.picture import window
from tests.server.pictured import inside, picture
from tests.server.running import Running

PLANE = "0/460,520/110,160/9/"
INSIDE = (9, slice(110, 160), slice(460, 520))

Sums = npt.NDArray[np.integer[Any]]


def rgba(red: Sums, green: Sums, blue: Sums) -> npt.NDArray[np.uint8]:
    """Sums of any size as a picture."""
    parts = np.minimum(np.stack([red, green, blue], axis=-1), 255)
    opacity = np.where(parts.any(axis=-1, keepdims=True), 255, 0)
    return np.concatenate([parts, opacity], axis=-1).astype(np.uint8)


def wide(name: str, *ends: int) -> npt.NDArray[np.int64]:
    voxels = inside(*INSIDE, name)
    return (window(voxels, *ends) if ends else voxels).astype(np.int64)


async def test_colours_go_by_place_and_sums_are_cut_off(pictured: Running) -> None:
    found = await picture(pictured, f"/nd/sd/v/u8,u16/mcfc/xy/{PLANE}")
    cyan, magenta = wide("u8"), wide("u16", 1000, 50000)
    assert (cyan + magenta).max() > 255
    assert np.array_equal(found, rgba(magenta, cyan, cyan + magenta))


async def test_a_zero_channel_skips_its_colour(pictured: Running) -> None:
    found = await picture(pictured, f"/nd/sd/v/u8,0,0,u16/mcfc/xy/{PLANE}")
    cyan, red = wide("u8"), wide("u16", 1000, 50000)
    assert np.array_equal(found, rgba(red, cyan, cyan))


async def test_six_channels_have_six_colours(pictured: Running) -> None:
    found = await picture(pictured, f"/nd/sd/v/u8,0,0,u8,u8,u8/mcfc/xy/{PLANE}window/0,255/")
    v = wide("u8")
    assert np.array_equal(found, rgba(v, 2 * v, 2 * v))


async def test_slices_window_bytes_only_when_asked_to(pictured: Running) -> None:
    plain = await picture(pictured, f"/nd/sd/v/u8w/mcfc/xy/{PLANE}")
    assert np.array_equal(plain[..., 1], wide("u8w"))
    asked = await picture(pictured, f"/nd/sd/v/u8w/mcfc/xy/{PLANE}window/0,100/")
    assert np.array_equal(asked[..., 1], wide("u8w", 0, 100))


@pytest.mark.parametrize("plane", ["xz", "yz"])
async def test_the_other_planes_are_as_wide_and_high_as_slices(
    pictured: Running, plane: str
) -> None:
    where = {"xz": "0/460,520/110/5,20/", "yz": "0/460/110,160/5,20/"}[plane]
    found = await picture(pictured, f"/nd/sd/v/mcfc/{plane}/{where}")
    grey = await picture(pictured, f"/nd/sd/v/u8/{plane}/{where}")
    assert grey.shape == {"xz": (30, 60), "yz": (30, 50)}[plane]
    assert np.array_equal(found, rgba(np.zeros_like(grey), grey, grey))


async def test_tiles_window_every_type_and_take_colours_by_letter(pictured: Running) -> None:
    found = await picture(pictured, "/nd/catmaid/mcfc/v/u8w:B,u16/xy/9/0_0_0.png")
    assert found.shape == (512, 512, 4)
    area = found[110:160, 460:512]
    blue = wide("u8w", 50, 250)[:, :52]
    magenta = wide("u16", 1000, 50000)[:, :52]
    assert np.array_equal(area, rgba(magenta, np.zeros_like(blue), blue + magenta))
    assert not found[:100].any()


async def test_tiles_have_every_plane_and_time(pictured: Running) -> None:
    for path in ("xz/120/0_0_0.png", "yz/470/0_0_0.png", "xy/9/0_0_0.png"):
        grey = await picture(pictured, f"/nd/catmaid/v/series/{path}")
        mixed = await picture(pictured, f"/nd/catmaid/mcfc/v/series:G/{path}")
        assert grey.any()
        assert np.array_equal(mixed[..., 1], grey)
        plane, rest = path.split("/", 1)
        elsewhere = await picture(pictured, f"/nd/catmaid/mcfc/v/series:G/{plane}/4/{rest}")
        assert not elsewhere.any()


@pytest.mark.parametrize(
    "path",
    [
        f"sd/v/u8,u8,u8,u8,u8,u8,u8/mcfc/xy/{PLANE}",
        f"sd/v/u8,nobody/mcfc/xy/{PLANE}",
        f"sd/v/0,u8/mcfc/xy/{PLANE}",
        f"sd/v/u8,,u16/mcfc/xy/{PLANE}",
        f"sd/v/u8/mcfc/zx/{PLANE}",
        f"sd/v/u8/mcfc/xy/{PLANE[:-1]}",
        f"sd/v/u8,u16/mcfc/xy/{PLANE}window/5,5/",
        f"sd/v/u8/mcfc/xy/{PLANE}filter/3/",
        "catmaid/mcfc/v/u8:R,u8,u8,u8,u8,u8,u8/xy/9/0_0_0.png",
        "catmaid/mcfc/v/u8:K/xy/9/0_0_0.png",
        "catmaid/mcfc/v/u8:r/xy/9/0_0_0.png",
        "catmaid/mcfc/v/u8:/xy/9/0_0_0.png",
        "catmaid/mcfc/v/u8:RG/xy/9/0_0_0.png",
        "catmaid/mcfc/v/u8,,u16/xy/9/0_0_0.png",
        "catmaid/mcfc/v/:R/xy/9/0_0_0.png",
        "catmaid/mcfc/v/nobody/xy/9/0_0_0.png",
    ],
)
async def test_senseless_mixtures_are_404(pictured: Running, path: str) -> None:
    assert await pictured.status(f"/nd/{path}") == 404

"""Tiles over HTTP."""

from pathlib import Path

import numpy as np
import pytest

from ndcass.config import ServerSettings, Settings
from ndcass.picture import false_colour, window
from ndcass.store.embedded import open_embedded
from tests.server.pictured import CORNER, SHAPE, inside, make_pictured, picture, post
from tests.server.running import Running, running

# The posted box reaches from x 450 to 580 and from y 100 to 190.
LEFT = (slice(100, 190), slice(450, 512))
RIGHT = (slice(100, 190), slice(512, 580))


async def test_tiles_meet_where_one_ends(pictured: Running) -> None:
    left = await picture(pictured, "/nd/catmaid/v/u8/xy/9/0_0_0.png")
    right = await picture(pictured, "/nd/catmaid/v/u8/xy/9/0_1_0.png")
    assert left.shape == right.shape == (512, 512)
    assert np.array_equal(left[100:190, 450:], inside(9, *LEFT, "u8"))
    assert np.array_equal(right[100:190, :68], inside(9, *RIGHT, "u8"))
    assert int(left.astype(np.int64).sum()) == int(inside(9, *LEFT, "u8").sum(dtype=np.int64))


async def test_tiles_begin_at_coordinate_0_and_reach_to_offset_and_size(app: Running) -> None:
    await app.make_volume("w", xoffset=3, yoffset=5, zoffset=2, ximagesize=1022, yimagesize=520)
    corner = np.full((1, 520, 1022), 9, dtype="u1")
    await post(app, "w/img", corner, (2, 5, 3))
    first = await picture(app, "/nd/catmaid/w/img/xy/2/0_0_0.png")
    assert not first[:5].any()
    assert not first[:, :3].any()
    assert (first[5:, 3:] == 9).all()
    last = await picture(app, "/nd/catmaid/w/img/xy/2/1_2_0.png")
    assert (last[:13, :1] == 9).all()
    assert int(last.astype(int).sum()) == 9 * 13


@pytest.mark.parametrize(
    ("name", "ends"),
    [("u8w", ()), ("u16", (1000, 50000)), ("f32", (0, 1)), ("i16", (-20000, 20000))],
)
async def test_windows_apply_as_in_slices(
    pictured: Running, name: str, ends: tuple[int, ...]
) -> None:
    found = await picture(pictured, f"/nd/tilecache/v/{name}/xy/9/0_0_0.png")
    expected = inside(9, *LEFT, name)
    assert np.array_equal(found[100:190, 450:], window(expected, *ends) if ends else expected)


@pytest.mark.parametrize("name", ["lab", "big"])
async def test_labels_are_in_colour_and_can_be_filtered(pictured: Running, name: str) -> None:
    labels = inside(9, *LEFT, name)
    found = await picture(pictured, f"/nd/catmaid/v/{name}/xy/9/0_0_0.png")
    assert np.array_equal(found[100:190, 450:], false_colour(labels))
    assert not found[:100].any()
    some = await picture(pictured, f"/nd/catmaid/v/{name}/xy/filter/3,4,5/9/0_0_0.png")
    kept = np.where(np.isin(labels, [3, 4, 5]), labels, 0)
    assert kept.any()
    assert np.array_equal(some[100:190, 450:], false_colour(kept))


@pytest.mark.parametrize("plane", ["xz", "yz"])
async def test_planes_across_have_512_rows_and_show_every_slice_at_its_place(
    pictured: Running, plane: str
) -> None:
    """A slice is two rows high: row q shows slice q // 2, counted from the first one."""
    name = {"xz": "xz/120/0_0_0.png", "yz": "yz/470/0_0_0.png"}[plane]
    found = await picture(pictured, f"/nd/catmaid/v/u8/{name}")
    assert found.shape == (512, 512)
    rows = np.repeat(np.arange(40), 2) + 2
    for q, z in enumerate(rows):
        if not 4 <= z < 24:
            assert not found[q].any()
        elif plane == "xz":
            assert np.array_equal(found[q, 450:], inside(int(z), 120, LEFT[1], "u8"))
        else:
            assert np.array_equal(found[q, 100:190], inside(int(z), LEFT[0], 470, "u8"))
    assert not found[80:].any()


async def test_a_tile_has_its_time_behind_the_filter(pictured: Running) -> None:
    await post(pictured, "v/lab", np.full(SHAPE, 6, dtype="<u4"), CORNER, t=2)
    found = await picture(pictured, "/nd/catmaid/v/lab/xy/filter/6/2/9/0_0_0.png")
    assert (found[100:190, 450:, 3] == 255).all()
    assert not (await picture(pictured, "/nd/catmaid/v/lab/xy/filter/5/2/9/0_0_0.png")).any()


async def test_a_series_begins_at_its_own_start(pictured: Running) -> None:
    found = await picture(pictured, "/nd/catmaid/v/series/xy/9/0_0_0.png")
    assert np.array_equal(found[100:190, 450:], inside(9, *LEFT, "series"))
    again = await picture(pictured, "/nd/catmaid/v/series/xy/3/9/0_0_0.png")
    assert np.array_equal(again, found)


async def test_other_names_of_a_tile(pictured: Running) -> None:
    expected = await picture(pictured, "/nd/catmaid/v/u8/xy/9/0_1_0.png")
    for path in (
        "/catmaid/v/u8/xy/9/0_1_0.png",
        "/ocp//tilecache/v/default/xy/009/00_01_0.pngjunk/more",
        "/nd/catmaid/viking/v/volume/u8/0/X1_Y0_Z9.png",
        "/tilecache/viking/v/volume/default/0/X001_Y000_Z009.png",
    ):
        assert np.array_equal(await picture(pictured, path), expected), path


@pytest.mark.parametrize(("width", "first", "last"), [(0, 9, 10), (3, 6, 13), (999, 4, 24)])
async def test_projected_tiles_look_at_slices_on_both_sides(
    pictured: Running, width: int, first: int, last: int
) -> None:
    found = await picture(pictured, f"/nd/catmaid/maxproj/v/u16/width:{width}/xy/9/0_0_0.png")
    greatest = inside(slice(first, last), *LEFT, "u16").max(axis=0)
    assert np.array_equal(found[100:190, 450:], window(greatest, 1000, 50000))
    assert not found[190:].any()


async def test_a_projected_tile_without_a_width_is_one_slice(pictured: Running) -> None:
    found = await picture(pictured, "/nd/catmaid/maxproj/v/u8w/xy/9/0_0_0.png")
    assert np.array_equal(found[100:190, 450:], window(inside(9, *LEFT, "u8w"), 50, 250))


@pytest.mark.parametrize(
    "path",
    [
        "v/u8/xy/1/0_0_0.png",  # below the first slice
        "v/u8/xy/42/0_0_0.png",
        "v/u8/xy/9/0_2_0.png",
        "v/u8/xy/9/2_0_0.png",
        "v/u8/xy/9/0_0_2.png",
        "v/u8/xy/9/0_0_7777777777777777777.png",
        "v/u8/xy/9/9999999999999999999_0_0.png",
        "v/u8/xz/4/0_0_0.png",
        "v/u8/xz/120/1_0_0.png",  # behind the last slice
        "v/u8/xz/120/9999999999999999999_0_0.png",
        "v/u8/yz/703/0_0_0.png",
        "v/u8/xy/9/0_0.png",
        "v/u8/xy/9/0_0_0.jpg",
        "v/u8/xy/-9/0_0_0.png",
        "v/u8/zz/9/0_0_0.png",
        "v/u8/xy/filter/3/9/0_0_0.png",
        "v/lab/xy/filter/a/9/0_0_0.png",
        "v/lab/xy/filter//9/0_0_0.png",
        "v/u8/xy/99999999999999999999/9/0_0_0.png",
        "v/u8,u16/xy/9/0_0_0.png",
        "v/nobody/xy/9/0_0_0.png",
        "filter/v/lab/xy/3/9/0_0_0.png",
        "viking/v/volume/u8/0/X9_Y0_Z9.png",
        "viking/v/volume/u8/0/X0_Y0_Z1.png",
        "viking/v/volume/u8/5/X0_Y0_Z9.png",
        "viking/v/volume/u8/0/X0_Y0_Z9.pngjunk",
        "viking/v/img/u8/0/X0_Y0_Z9.png",
        "maxproj/v/u8/width:3/xz/9/0_0_0.png",
        "maxproj/v/u8/width:x/xy/9/0_0_0.png",
        "maxproj/v/u8/width:3/xy/1/0_0_0.png",
        "maxproj/v/u8,u8/width:3/xy/9/0_0_0.png",
    ],
)
async def test_what_is_no_tile_is_404(pictured: Running, path: str) -> None:
    assert await pictured.status(f"/nd/catmaid/{path}") == 404


async def test_tiles_need_the_permission_that_data_need(app: Running) -> None:
    await make_pictured(app, "shut", public=0)
    for path in (
        "shut/u8/xy/9/0_0_0.png",
        "viking/shut/volume/u8/0/X0_Y0_Z9.png",
        "mcfc/shut/u8/xy/9/0_0_0.png",
        "maxproj/shut/u8/width:2/xy/9/0_0_0.png",
    ):
        assert await app.status(f"/nd/catmaid/{path}") == 403
        assert await app.status(f"/nd/catmaid/{path}", user="bob") == 403
        assert await app.status(f"/nd/catmaid/{path}", user="admin") == 200
    assert await app.status("/nd/catmaid/no_such_token/u8/xy/9/0_0_0.png") == 403


@pytest.mark.parametrize(
    ("plane", "z", "xy"), [("yz", 1e-200, 1e200), ("xz", 1e200, 1e-200), ("xz", 1e-9, 1e9)]
)
async def test_extreme_voxels_make_no_server_error(
    app: Running, plane: str, z: float, xy: float
) -> None:
    other = z if xy > 1e100 else xy  # the catalogue refuses z / y = 0
    await app.make_volume("w", zvoxelres=z, xvoxelres=xy, yvoxelres=other)
    found = await picture(app, f"/nd/catmaid/w/img/{plane}/0/0_0_0.png")
    assert found.shape == (512, 512)
    box = {"xz": "0/0,10/0/0,9/", "yz": "0/0/0,10/0,9/"}[plane]
    assert await app.status(f"/nd/sd/w/img/{plane}/{box}") in (200, 413)


async def test_a_tile_of_too_many_slices_is_413(tmp_path: Path) -> None:
    """Flat voxels: one tile shows each fiftieth of a million slices."""
    stores = await open_embedded(tmp_path / "data")
    settings = Settings(server=ServerSettings(max_slice_bytes=4 << 20))
    try:
        async with running(stores, settings) as app:
            await app.make_volume("w", zimagesize=1_000_000, zvoxelres=0.02)
            answer = await app.get("/nd/catmaid/w/img/xz/0/0_0_0.png")
            assert answer.status == 413
            assert str(4 << 20) in await answer.text()
            assert await app.status("/nd/catmaid/w/img/xy/0/0_0_0.png") == 200
    finally:
        await stores.close()

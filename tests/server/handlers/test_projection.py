"""Projections over HTTP."""

from pathlib import Path

import numpy as np
import pytest

from ndcass.config import ServerSettings, Settings
from ndcass.picture import false_colour, window
from ndcass.store.embedded import open_embedded
from tests.server.pictured import CORNER, SHAPE, inside, make_pictured, picture, post
from tests.server.running import Running, running

BOX = "0/460,520/110,160/5,20/"
INSIDE = (slice(5, 20), slice(110, 160), slice(460, 520))
PLANES = {"xy": 0, "xz": 1, "yz": 2}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("service", "pick"), [("minproj", np.min), ("maxproj", np.max)])
async def test_every_plane_is_the_extreme_along_its_axis(
    pictured: Running, plane: str, service: str, pick: type
) -> None:
    found = await picture(pictured, f"/nd/sd/v/u8/{service}/{plane}/{BOX}")
    assert np.array_equal(found, pick(inside(*INSIDE, "u8"), axis=PLANES[plane]))


@pytest.mark.parametrize("name", ["u8w", "u16", "i16", "f32"])
async def test_the_window_of_the_channel_applies_to_every_type(
    pictured: Running, name: str
) -> None:
    low, high = {"u8w": (50, 250), "u16": (1000, 50000), "i16": (-20000, 20000), "f32": (0, 1)}[
        name
    ]
    found = await picture(pictured, f"/nd/sd/v/{name}/maxproj/xz/{BOX}")
    assert np.array_equal(found, window(inside(*INSIDE, name).max(axis=1), low, high))


async def test_a_window_that_is_asked_for_applies_once_and_before_the_comparison(
    pictured: Running,
) -> None:
    found = await picture(pictured, f"/nd/sd/v/u8w/maxproj/xy/{BOX}window/0,100/")
    assert np.array_equal(found, window(inside(*INSIDE, "u8w"), 0, 100).max(axis=0))
    cast = await picture(pictured, f"/nd/sd/v/u16/minproj/xy/{BOX}window/0,0/")
    assert np.array_equal(cast, inside(*INSIDE, "u16").astype(np.uint8).min(axis=0))


@pytest.mark.parametrize("name", ["lab", "big"])
async def test_projected_labels_are_in_colour(pictured: Running, name: str) -> None:
    found = await picture(pictured, f"/nd/sd/v/{name}/maxproj/yz/{BOX}")
    assert np.array_equal(found, false_colour(inside(*INSIDE, name).max(axis=2)))


async def test_filter_leaves_only_its_labels_to_compare(pictured: Running) -> None:
    found = await picture(pictured, f"/nd/sd/v/lab/maxproj/xy/{BOX}filter/7,9,499999999999/")
    labels = inside(*INSIDE, "lab")
    kept = np.where(np.isin(labels, [7, 9]), labels, 0)
    assert kept.any()
    assert np.array_equal(found, false_colour(kept.max(axis=0)))


async def test_of_a_time_range_the_first_timestep_is_shown(pictured: Running) -> None:
    later = np.full(SHAPE, 77, dtype="u1")
    await post(pictured, "v/series", later, CORNER, t=5)
    found = await picture(pictured, f"/nd/sd/v/series/maxproj/xy/{BOX}5,8/")
    assert found.shape == (50, 60)
    assert (found == 77).all()
    first = await picture(pictured, f"/nd/sd/v/series/maxproj/xy/{BOX}")
    assert np.array_equal(first, inside(*INSIDE, "series").max(axis=0))


async def test_the_channel_may_be_left_out_or_called_default(pictured: Running) -> None:
    named = await picture(pictured, f"/nd/sd/v/u8/minproj/xy/{BOX}")
    for path in (f"/sd/v/minproj/xy/{BOX}", f"/ocp/ca/v/default/minproj/xy/{BOX}"):
        assert np.array_equal(await picture(pictured, path), named)


async def test_what_is_not_written_is_black(pictured: Running) -> None:
    found = await picture(pictured, "/nd/sd/v/u8/maxproj/xy/0/3,300/5,90/2,42/")
    assert found.shape == (85, 297)
    assert not found.any()


@pytest.mark.parametrize(
    "path",
    [
        f"u8,u8w/maxproj/xy/{BOX}",
        f"nobody/maxproj/xy/{BOX}",
        f"u8/maxproj/zz/{BOX}",
        f"u8/maxproj/{BOX}",
        f"u8/medproj/xy/{BOX}",
        "u8/maxproj/xy/0/0,10/10,20/5,8/",
        "u8/maxproj/xy/0/460,460/110,160/5,20/",
        "u8/maxproj/xy/2/10,20/10,20/5,8/",
        f"u8/maxproj/xy/{BOX}window/9,9/",
        f"u8/maxproj/xy/{BOX}window/9,3/",
        f"u8/maxproj/xy/{BOX}window/0,1.5/",
        f"u8/maxproj/xy/{BOX}window/a,b/",
        f"u8/maxproj/xy/{BOX}filter/1/",
        f"lab/maxproj/xy/{BOX}filter/x/",
        f"series/maxproj/xy/{BOX}8,5/",
    ],
)
async def test_senseless_projections_are_404(pictured: Running, path: str) -> None:
    assert await pictured.status(f"/nd/sd/v/{path}") == 404


async def test_posting_a_projection_is_refused(pictured: Running) -> None:
    assert await pictured.status(f"/nd/sd/v/u8/maxproj/xy/{BOX}", method="POST") == 400


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        (ServerSettings(max_slice_bytes=4 * 50 * 60 - 1), 4 * 50 * 60),
        (ServerSettings(max_cutout_bytes=15 * 50 * 60 - 1), 15 * 50 * 60),
    ],
)
async def test_too_large_is_413_with_both_sizes(
    tmp_path: Path, limits: ServerSettings, asked: int
) -> None:
    stores = await open_embedded(tmp_path / "data")
    settings = Settings(server=limits)
    try:
        async with running(stores, settings) as app:
            await app.make_volume("w", ximagesize=700, yimagesize=620, zimagesize=40)
            answer = await app.get(f"/nd/sd/w/img/maxproj/xy/{BOX}")
            text = await answer.text()
    finally:
        await stores.close()
    assert answer.status == 413
    assert str(asked) in text
    assert str(asked - 1) in text


async def test_private_projections_need_permission(app: Running) -> None:
    await make_pictured(app, "shut", public=0)
    path = f"/nd/sd/shut/u8/maxproj/xy/{BOX}"
    assert await app.status(path) == 403
    assert await app.status(path, user="bob") == 403
    assert await app.status(path, user="admin") == 200

"""Pictures that were drawn before: from the cache and from the client's, and never old."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from ndcass.server import pictures
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.store.picture_cache import PictureCache
from tests.full_disk import file_size_limit
from tests.server.pictured import CORNER, SHAPE, make_pictured, picture, pixels, post, voxels_of
from tests.server.running import Running, running

SLICE = "/nd/sd/v/u8/xy/0/450,580/100,190/9/"
TILE = "/nd/catmaid/v/u8/xy/9/0_0_0.png"


class AtOnce(PictureCache):
    """Keeps pictures before they are sent, so that a test knows what is there."""

    def keep(self, key: bytes, versions: bytes, picture: bytes) -> None:
        super().keep(key, versions, picture)
        self.settle()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[PictureCache]:
    found = AtOnce.open(tmp_path / "pictures", limit_bytes=64 << 20, keep_free_bytes=0)
    assert found is not None
    yield found
    found.close()


@pytest.fixture
async def cached(tmp_path: Path, cache: PictureCache) -> AsyncIterator[Running]:
    """The gateway with a cache of pictures, on the embedded engine, with the volume `v`."""
    stores = await open_embedded(tmp_path / "data")
    try:
        async with running(stores, pictures=cache) as app:
            await make_pictured(app)
            yield app
    finally:
        await stores.close()


EVERY_KIND = (
    SLICE,
    TILE,
    "/nd/sd/v/u8/xz/0/450,580/120/4,24/",
    "/nd/sd/v/u8,u16/mcfc/yz/0/470/100,190/4,24/",
    "/nd/sd/v/u8/minproj/xy/0/450,580/100,190/4,24/",
    "/nd/catmaid/v/lab/xz/120/0_0_0.png",
    "/nd/catmaid/mcfc/v/u8:R,u16:G/xy/9/0_0_0.png",
    "/nd/catmaid/maxproj/v/u16/width:3/xy/9/0_0_0.png",
    "/nd/catmaid/viking/v/volume/u8/0/X0_Y0_Z9.png",
)


async def test_every_kind_of_picture_is_kept_and_comes_back(
    cached: Running, cache: PictureCache
) -> None:
    for path in EVERY_KIND:
        drawn = await picture(cached, path)
        hits = cache.counts["pictures_hit"]
        again = await picture(cached, path)
        assert cache.counts["pictures_hit"] == hits + 1, path
        assert np.array_equal(again, drawn)


async def test_what_is_kept_is_seen_as_it_was_by_no_one_after_a_write(
    cached: Running, cache: PictureCache
) -> None:
    """Every way to write, at every place of the picture's box."""
    model = voxels_of("u8").copy()
    rng = np.random.default_rng(3)
    for number in range(24):
        z, y, x = (int(rng.integers(0, n)) for n in SHAPE)
        shape = tuple(
            int(rng.integers(1, n - a + 1)) for n, a in zip(SHAPE, (z, y, x), strict=True)
        )
        part = rng.integers(0, 3, shape, dtype=np.uint8)
        area = model[z : z + shape[0], y : y + shape[1], x : x + shape[2]]
        way = ("merge", "replace", "preserve")[number % 3]
        if way == "merge":
            area[...] = np.where(part, part, area)
        elif way == "replace":
            area[...] = part
        else:
            area[...] = np.where(area, area, part)
        corner = (CORNER[0] + z, CORNER[1] + y, CORNER[2] + x)
        await post(cached, "v/u8", part, corner, query=f"?write={way}")
        assert np.array_equal(await picture(cached, SLICE), model[5])
        tile = await picture(cached, TILE)
        assert np.array_equal(tile[100:190, 450:], model[5][:, :62])
    assert cache.counts["pictures_kept"] > 24


async def test_a_write_elsewhere_leaves_the_picture_where_it_is(
    cached: Running, cache: PictureCache
) -> None:
    await picture(cached, TILE)
    await post(cached, "v/u8", np.ones((1, 9, 9), dtype="u1"), (40, 600, 600))
    await post(cached, "v/u8w", np.ones(SHAPE, dtype="u1"), CORNER)
    await picture(cached, TILE)
    assert cache.counts["pictures_hit"] == 1


async def test_a_coarse_picture_of_a_channel_without_a_pyramid_follows_its_base(
    cached: Running,
) -> None:
    path = "/nd/catmaid/v/u8/xy/9/0_0_1.png"
    before = await picture(cached, path)
    await post(cached, "v/u8", np.full(SHAPE, 200, dtype="u1"), CORNER)
    after = await picture(cached, path)
    assert not np.array_equal(before, after)
    assert (after[60:90, 230:280] == 200).all()


async def test_an_edit_shows_in_the_tiles_of_a_coarser_level_that_say_they_are_fresh(
    cached: Running,
) -> None:
    path = "/nd/catmaid/v/u8/xy/9/0_0_1.png"
    answer = await cached.get("/nd/sd/v/u8/setPropagate/1/", user="admin")
    assert answer.status == 200, await answer.text()
    for value in (0, 210, 220):
        if value:
            await post(cached, "v/u8", np.full(SHAPE, value, dtype="u1"), CORNER)
        async with asyncio.timeout(30):
            while (tile := await cached.get(path)).headers["X-Volume-Fresh"] == "false":
                await asyncio.sleep(0.02)
        area = (await pixels(tile))[60:90, 230:280]
        assert area.any()
        assert not value or (area == value).all()


async def test_a_changed_window_is_seen_at_once(cached: Running) -> None:
    path = "/nd/catmaid/v/u16/xy/9/0_0_0.png"
    before = await picture(cached, path)
    channel = "/nd/resource/dataset/v/project/v/channel/u16/"
    body = {"startwindow": 0, "endwindow": 255}
    answer = await cached.request("PUT", channel, user="admin", json=body)
    assert answer.status == 200, await answer.text()
    after = await picture(cached, path)
    assert not np.array_equal(before, after)
    assert after[100:190, 450:].mean() > 250


async def test_a_channel_that_is_made_anew_has_no_pictures_of_the_old_one(
    cached: Running,
) -> None:
    assert (await picture(cached, TILE)).any()
    channel = "/nd/resource/dataset/v/project/v/channel/u8/"
    assert await cached.status(channel, user="admin", method="DELETE") == 204
    body = {"channel_name": "u8", "channel_type": "image", "channel_datatype": "uint8"}
    await cached.make("dataset/v/project/v/channel/u8/", body)
    assert not (await picture(cached, TILE)).any()


async def test_what_is_kept_is_for_those_who_may_see_it(cached: Running) -> None:
    await make_pictured(cached, "shut", public=0)
    path = "/nd/catmaid/shut/u8/xy/9/0_0_0.png"
    answer = await cached.get(path, user="admin")
    assert answer.status == 200
    known = {"If-None-Match": answer.headers["ETag"]}
    assert await cached.status(path) == 403
    assert (await cached.get(path, headers=known)).status == 403
    assert (await cached.get(path, user="admin", headers=known)).status == 304


async def test_damaged_files_are_drawn_anew(cached: Running, tmp_path: Path) -> None:
    whole = await picture(cached, TILE)
    for number, garbage in enumerate((b"", b"garbage", bytes(100_000))):
        files = [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]
        assert len(files) == 1, number
        files[0].write_bytes(garbage)
        assert np.array_equal(await picture(cached, TILE), whole)


async def test_a_full_disk_under_the_cache_fails_no_request(
    tmp_path: Path, cache: PictureCache
) -> None:
    async with running(MemoryStores(), pictures=cache) as app:
        await make_pictured(app)
        with file_size_limit(3000):
            for path in EVERY_KIND:
                assert (await app.get(path)).status == 200
    assert cache.counts["pictures_not_written"] > 0
    assert not list((tmp_path / "pictures").rglob("*.new"))


async def test_the_metrics_tell_what_the_cache_does(cached: Running) -> None:
    for _ in range(3):
        await picture(cached, TILE)
    text = await (await cached.get("/metrics")).text()
    assert 'event="pictures_hit"} 2' in text
    assert 'event="pictures_kept"} 1' in text


# -- what the client has


async def test_a_client_is_not_sent_what_it_has(cached: Running) -> None:
    for path in EVERY_KIND:
        answer = await cached.get(path)
        etag = answer.headers["ETag"]
        assert etag.startswith('"'), "a strong one"
        assert answer.headers["Cache-Control"] == "no-cache"
        for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            again = await cached.get(path, headers={"If-None-Match": known})
            assert again.status == 304, path
            assert again.headers["ETag"] == etag
            assert await again.read() == b""
        other = await cached.get(path, headers={"If-None-Match": '"other"'})
        assert other.status == 200


async def test_after_a_write_the_client_is_sent_the_picture(pictured: Running) -> None:
    """Also where no pictures are kept."""
    answer = await pictured.get(TILE)
    known = {"If-None-Match": answer.headers["ETag"]}
    assert (await pictured.get(TILE, headers=known)).status == 304
    await post(pictured, "v/u8", np.full((1, 1, 1), 9, dtype="u1"), (9, 100, 450))
    again = await pictured.get(TILE, headers=known)
    assert again.status == 200
    assert again.headers["ETag"] != answer.headers["ETag"]


async def test_pictures_that_look_different_have_different_names(pictured: Running) -> None:
    paths = [
        *EVERY_KIND[:-1],  # the last is the tile under another name
        SLICE.replace("u8", "u8w"),
        f"{SLICE}window/0,9/",
        f"{SLICE}window/0,8/",
        SLICE.replace("/9/", "/10/"),
        SLICE.replace("450,580", "450,579"),
        SLICE.replace("/xy/0/450,580/100,190", "/xy/1/225,290/50,95"),
        TILE.replace("0_0_0", "0_1_0"),
        TILE.replace("0_0_0", "0_0_1"),
        "/nd/catmaid/v/lab/xy/9/0_0_0.png",
        "/nd/catmaid/v/lab/xy/filter/3/9/0_0_0.png",
        "/nd/catmaid/v/lab/xy/filter/3,4/9/0_0_0.png",
        "/nd/catmaid/v/series/xy/9/0_0_0.png",
        "/nd/catmaid/v/series/xy/5/9/0_0_0.png",
        "/nd/catmaid/mcfc/v/u8:G,u16:R/xy/9/0_0_0.png",
        "/nd/catmaid/mcfc/v/u16:R,u8:G/xz/120/0_0_0.png",
        "/nd/catmaid/maxproj/v/u16/width:4/xy/9/0_0_0.png",
        "/nd/sd/v/u8/maxproj/xy/0/450,580/100,190/4,24/",
        "/nd/sd/v/u8/mcfc/xy/0/450,580/100,190/9/",
        "/nd/sd/v/u8/xz/0/450,580/120/4,23/",
    ]
    names = [(await pictured.get(path)).headers["ETag"] for path in paths]
    assert len(set(names)) == len(paths)


async def test_the_same_picture_by_another_path_has_the_same_name(pictured: Running) -> None:
    names = {
        (await pictured.get(path)).headers["ETag"]
        for path in (
            TILE,
            "/catmaid/v/default/xy/9/0_0_0.pngjunk",
            "/nd/catmaid/viking/v/volume/u8/0/X0_Y0_Z9.png",
        )
    }
    assert len(names) == 1


async def test_head_has_the_name_too(pictured: Running) -> None:
    got, headed = await pictured.get(TILE), await pictured.request("HEAD", TILE)
    assert headed.headers["ETag"] == got.headers["ETag"]
    assert headed.headers["Content-Length"] == str(len(await got.read()))


async def test_a_picture_of_too_many_cuboids_has_no_name_and_is_drawn(
    pictured: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = await pictured.get(SLICE)
    monkeypatch.setattr(pictures, "MAX_NAMED_CUBOIDS", 3)
    answer = await pictured.get(SLICE)
    assert "ETag" not in answer.headers
    assert await answer.read() == await named.read()

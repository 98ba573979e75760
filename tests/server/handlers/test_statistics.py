"""Statistics over HTTP: every answer of the contract, and every refusal."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest

from ndcass.server import background
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running

OFFSET_Z = 5
REGION = [[10, 20, 6], [90, 80, 16]]


@pytest.fixture
async def volume(app: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A volume of 300 x 200 x 20 that begins at z = 5."""
    monkeypatch.setattr(background, "JOB_POLL_S", 0.02)
    await app.make_volume("v", zoffset=OFFSET_Z)
    return app


async def fill(app: Running, channel: str = "img", dtype: str = "|u1") -> np.ndarray:
    """Noise in all of a channel; as an array of order z, y, x."""
    rng = np.random.default_rng(3)
    voxels = rng.integers(0, np.iinfo(dtype).max, (20, 200, 300), dtype, endpoint=True)
    voxels[rng.random(voxels.shape) < 1 / 3] = 0
    path = f"/nd/sd/v/{channel}/raw/0/0,300/0,200/{OFFSET_Z},{OFFSET_Z + 20}/"
    headers = {"X-Volume-Dtype": dtype}
    body = io.BytesIO(voxels.tobytes())
    answer = await app.request("POST", path, user="ann", data=body, headers=headers)
    assert answer.status == 200, await answer.text()
    return voxels


async def of_16_bits(app: Running) -> None:
    body = {"channel_name": "deep", "channel_type": "image", "channel_datatype": "uint16"}
    await app.make("dataset/v/project/v/channel/deep/", body)


async def read(app: Running, path: str) -> Any:
    answer = await app.get(f"/nd/stats/v/{path}")
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "application/json"
    return await answer.json()


async def order(app: Running, channel: str = "img", *, regions: Any = None) -> Any:
    path = f"/nd/stats/v/{channel}/genhist/"
    if regions is None:
        answer = await app.get(path, user="ann")
    else:
        answer = await app.request("POST", path, user="ann", json={"ROI": regions})
    assert answer.status == 200, await answer.text()
    return await answer.json()


async def ended(app: Running, job_id: str, channel: str = "img") -> Any:
    async with asyncio.timeout(20):
        while True:
            found = await read(app, f"{channel}/genhist/{job_id}/")
            if found["state"] not in ("PENDING", "STARTED"):
                return found
            await asyncio.sleep(0.02)


def counts(voxels: np.ndarray) -> list[int]:
    bins = int(np.iinfo(voxels.dtype).max) + 1
    found: list[int] = np.histogram(voxels[voxels > 0], bins=bins, range=(0, bins))[0].tolist()
    return found


def in_region(voxels: np.ndarray, region: list[list[int]]) -> np.ndarray:
    (x0, y0, z0), (x1, y1, z1) = region
    return voxels[z0 - OFFSET_Z : z1 - OFFSET_Z, y0:y1, x0:x1]


# -- answers


@pytest.mark.parametrize(("channel", "dtype"), [("img", "|u1"), ("deep", "<u2")])
async def test_the_histogram_of_a_channel_is_ordered_followed_and_read(
    volume: Running, channel: str, dtype: str
) -> None:
    await of_16_bits(volume)
    voxels = await fill(volume, channel, dtype)
    found = await order(volume, channel)
    assert found == {"channel": channel, "jobid": found["jobid"], "state": "PENDING", "token": "v"}
    job = await ended(volume, found["jobid"], channel)
    assert job == {
        "jobid": found["jobid"],
        "state": "SUCCESS",
        "done": 12,
        "total": 12,
        "error": "",
    }
    hist = await read(volume, f"{channel}/hist/")
    bins = len(counts(voxels))
    assert hist == {"hist": counts(voxels), "bins": [float(edge) for edge in range(bins + 1)]}


async def test_regions_are_in_the_order_of_the_request_and_of_the_coordinates_of_cutouts(
    volume: Running,
) -> None:
    voxels = await fill(volume)
    regions = [REGION, [[0, 0, 5], [300, 200, 25]], [[5, 5, 6], [6.0, 6, 7]]]
    found = await order(volume, regions=regions)
    assert (found["channel"], found["token"]) == ("img", "v")
    assert [result["roi"] for result in found["results"]] == regions
    assert {result["state"] for result in found["results"]} == {"PENDING"}
    for result in found["results"]:
        assert (await ended(volume, result["jobid"]))["state"] == "SUCCESS"
    assert await read(volume, "img/hist/roi/") == [regions[1], regions[2], REGION]
    hist = await read(volume, "img/hist/roi/10,20,6-90,80,16/")
    assert hist == {
        "hist": counts(in_region(voxels, REGION)),
        "bins": [float(edge) for edge in range(257)],
        "roi": REGION,
    }
    binned = await read(volume, "img/binnedhist/roi/10,20,6-90,80,16")
    expected = np.array(counts(in_region(voxels, REGION)))[:250].reshape(25, 10).sum(axis=1)
    assert binned == {"hist": expected.tolist(), "bins": list(range(0, 251, 10)), "roi": REGION}
    # What a client cuts out is what was counted.
    cutout = await volume.get("/nd/sd/v/img/raw/0/10,90/20,80/6,16/")
    cut = np.frombuffer(await cutout.read(), dtype="u1")
    assert counts(cut) == hist["hist"]


async def test_statistics_follow_from_the_histogram(volume: Running) -> None:
    voxels = await fill(volume)
    await ended(volume, (await order(volume))["jobid"])
    some = voxels[voxels > 0]
    found = await read(volume, "img/all/")
    assert sorted(found) == sorted(["hist", "bins", "mean", "stddev", "percents", "min", "max"])
    assert found["mean"] == pytest.approx(some.mean() + 0.5)
    assert found["stddev"] == pytest.approx(some.std())
    assert (found["min"], found["max"]) == (some.min(), some.max())
    ordered = np.sort(some)
    for percent in ("1", "50", "99"):
        reached = ordered[-(-int(percent) * len(some) // 100) - 1]
        assert found["percents"][percent] == reached + 1
        assert await read(volume, f"img/percentile/{percent}/") == {percent: reached + 1}
    for path, value in (("mean", found["mean"]), ("std", found["stddev"])):
        answer = await volume.get(f"/nd/stats/v/img/{path}/")
        assert answer.content_type == "text/html"
        assert float(await answer.text()) == value


async def test_a_percentile_is_named_as_it_was_asked_for(volume: Running) -> None:
    await fill(volume)
    await ended(volume, (await order(volume))["jobid"])
    assert list(await read(volume, "img/percentile/95.990/")) == ["95.990"]
    assert await read(volume, "img/percentile/100") == {"100": 256.0}
    assert await read(volume, "img/percentile/-3/") == {"-3": 0.0}


async def test_of_nothing_there_is_null_and_nan(volume: Running) -> None:
    await ended(volume, (await order(volume))["jobid"])
    found = await read(volume, "img/all/")
    assert (found["mean"], found["stddev"], found["min"], found["max"]) == (None, None, 0, 0)
    assert found["percents"] == {"1": 0.0, "50": 0.0, "99": 0.0}
    assert await (await volume.get("/nd/stats/v/img/mean/")).text() == "nan"


async def test_regions_nobody_asked_for_are_an_empty_list(volume: Running) -> None:
    assert await read(volume, "img/hist/roi/") == []


async def test_the_default_channel_has_its_name_too(volume: Running) -> None:
    path = "/nd/resource/dataset/v/project/v/channel/img/"
    await volume.request("PUT", path, user="admin", json={"default": True})
    await ended(volume, (await order(volume, "default"))["jobid"])
    assert await read(volume, "default/hist/") == await read(volume, "img/hist/")


async def test_a_histogram_goes_with_its_channel(volume: Running) -> None:
    await fill(volume)
    await ended(volume, (await order(volume))["jobid"])
    path = "/nd/resource/dataset/v/project/v/channel/img/"
    assert await volume.status(path, user="admin", method="DELETE") == 204
    body = {"channel_name": "img", "channel_type": "image", "channel_datatype": "uint8"}
    await volume.make("dataset/v/project/v/channel/img/", body)
    assert await volume.status("/nd/stats/v/img/hist/") == 404


# -- refusals


@pytest.mark.parametrize(
    "path",
    [
        "hist/",
        "all/",
        "mean/",
        "std/",
        "percentile/50/",
        "hist/roi/1,1,6-2,2,7/",
        "binnedhist/roi/1,1,6-2,2,7/",
        "genhist/nonsense/",
    ],
)
async def test_what_was_not_made_is_not_found(volume: Running, path: str) -> None:
    assert await volume.status(f"/nd/stats/v/img/{path}") == 404
    assert await volume.status(f"/nd/stats/v/nothing/{path}") == 404
    assert await volume.status(f"/nd/stats/nothing/img/{path}", user="admin") == 404


@pytest.mark.parametrize(
    "region", ["nonsense", "1,1,6", "1,1,6-2,2", "1,1,6-1,2,7", "-1,1,6-2,2,7"]
)
async def test_a_region_that_is_none_is_refused(volume: Running, region: str) -> None:
    for service in ("hist", "binnedhist"):
        assert await volume.status(f"/nd/stats/v/img/{service}/roi/{region}/") == 400


@pytest.mark.parametrize("percent", ["", "x", "1,5", "5e1", "nan", "1" * 50, "5/0"])
async def test_a_percentage_that_is_none_is_refused(volume: Running, percent: str) -> None:
    assert await volume.status(f"/nd/stats/v/img/percentile/{percent}/") in (400, 404)
    if percent:
        assert await volume.status(f"/nd/stats/v/img/percentile/{percent}/") == 400


BAD_BODIES = [
    b"",
    b"no json",
    b"[]",
    b"{}",
    b'{"RAMON": [1]}',
    b'{"ROI": 5}',
    b'{"ROI": [5]}',
    b'{"ROI": [[[1,1,6]]]}',
    b'{"ROI": [[[1,1,6],[2,2,7],[3,3,8]]]}',
    b'{"ROI": [[[1,1],[2,2,7]]]}',
    b'{"ROI": [[[1,1,6],[2,2,"7"]]]}',
    b'{"ROI": [[[1,1,6],[2,2,7.5]]]}',
    b'{"ROI": [[[1,1,6],[2,2,true]]]}',
    b'{"ROI": [[[1,1,6],[2,2,NaN]]]}',
    b'{"ROI": [[[1,1,6],[1,2,7]]]}',
    b'{"ROI": [[[3,1,6],[1,2,7]]]}',
    b'{"ROI": [[[1,1,4],[2,2,7]]]}',
    b'{"ROI": [[[1,1,-4],[2,2,7]]]}',
    b'{"ROI": [[[1,1,6],[301,2,7]]]}',
    b'{"ROI": [[[1,1,6],[2,2,26]]]}',
    b'{"ROI": [[[1,1,6],[2,2,1' + b"0" * 30 + b"]]]}",
    # The first is good, and is not made either.
    b'{"ROI": [[[1,1,6],[2,2,7]],[[1,1,6],[301,2,7]]]}',
]


@pytest.mark.parametrize("body", BAD_BODIES)
async def test_an_order_that_makes_no_sense_orders_nothing(volume: Running, body: bytes) -> None:
    path = "/nd/stats/v/img/genhist/"
    answer = await volume.request("POST", path, user="ann", data=body)
    assert answer.status == 400
    assert list(await volume.stores.jobs.jobs()) == []


async def test_too_many_regions_are_too_large(volume: Running) -> None:
    path = "/nd/stats/v/img/genhist/"
    answer = await volume.request("POST", path, user="ann", json={"ROI": [REGION] * 101})
    assert answer.status == 413
    assert "at most 100" in await answer.text()


async def test_orders_do_not_pile_up_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "handlers", lambda turns: {})  # nobody works on them
    regions = [[[x, 0, 0], [x + 1, 9, 9]] for x in range(201)]
    async with running(MemoryStores()) as app:
        await app.make_volume("v")
        await app.make_volume("other")
        for some in (regions[:100], regions[100:200]):
            await order(app, regions=some)
        path = "/nd/stats/v/img/genhist/"
        answer = await app.request("POST", path, user="ann", json={"ROI": regions[199:]})
        assert answer.status == 413
        assert "at most 200 jobs" in await answer.text()
        assert (await app.get(path, user="ann")).status == 413
        await order(app, regions=regions[:3])  # they wait already
        jobs = await app.stores.jobs.jobs()
        assert len(jobs) == 200
        assert (await app.get("/nd/stats/other/img/genhist/", user="ann")).status == 200
        assert await app.stores.jobs.cancel(jobs[0].id)
        assert (await app.get(path, user="ann")).status == 200


async def test_channels_that_are_not_counted_are_refused(volume: Running) -> None:
    path = "/nd/resource/dataset/v/project/v/channel/img/"
    await volume.request("PUT", path, user="admin", json={"readonly": 1})
    for channel in ("img", "lab"):
        for method, options in (("GET", {}), ("POST", {"json": {"ROI": [REGION]}})):
            path = f"/nd/stats/v/{channel}/genhist/"
            answer = await volume.request(method, path, user="ann", **options)
            assert answer.status == 400, channel
    assert list(await volume.stores.jobs.jobs()) == []


async def test_an_order_for_nothing_is_not_found(volume: Running) -> None:
    for method in ("GET", "POST"):
        options = {"json": {"ROI": [REGION]}} if method == "POST" else {}
        for path in ("/nd/stats/v/nothing/genhist/", "/nd/stats/nothing/img/genhist/"):
            answer = await volume.request(method, path, user="admin", **options)
            assert answer.status == 404, path


async def test_the_token_rule_holds(volume: Running) -> None:
    await volume.make_volume("shut", public=0, user="ann")
    for path in ("hist/", "hist/roi/", "all/", "mean/", "percentile/5/", "genhist/", "genhist/x/"):
        for user in (None, "bob"):
            assert await volume.status(f"/nd/stats/shut/img/{path}", user=user) == 403
    assert await volume.status("/nd/stats/shut/img/hist/roi/", user="ann") == 200
    assert await volume.status("/nd/stats/shut/img/genhist/", user="ann") == 200


async def test_work_is_begun_for_callers_with_a_key_only(volume: Running) -> None:
    assert await volume.status("/nd/stats/v/img/genhist/") == 403
    answer = await volume.request("POST", "/nd/stats/v/img/genhist/", json={"ROI": [REGION]})
    assert answer.status == 403
    assert await volume.status("/nd/stats/v/img/genhist/", user="ann", method="HEAD") == 405
    assert list(await volume.stores.jobs.jobs()) == []


async def test_a_job_is_shown_to_who_may_see_its_channel(volume: Running) -> None:
    job_id = (await order(volume))["jobid"]
    await volume.make_volume("other")
    for path in ("/nd/stats/v/lab/genhist/", "/nd/stats/other/img/genhist/"):
        assert await volume.status(f"{path}{job_id}/") == 404

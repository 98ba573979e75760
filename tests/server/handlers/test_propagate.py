"""The pyramid services: states, refusals, the lock, and what answers say of old levels."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from ndcass.config import ServerSettings, Settings
from ndcass.errors import StoreFull
from ndcass.propagation import PROPAGATE_JOB
from ndcass.store.base import CuboidBatch, StaleMark
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running

BOX = "0,40/0,30/0,2"


async def propagated(app: Running, channel: str = "img", *, state: str = "2") -> None:
    async with asyncio.timeout(30):
        while await text(app, f"{channel}/getPropagate/") != state:
            await asyncio.sleep(0.02)


async def text(app: Running, path: str) -> str:
    answer = await app.get(f"/nd/sd/vol/{path}", user="ann")
    assert answer.status == 200, await answer.text()
    return await answer.text()


async def status(app: Running, path: str, *, user: str | None = "ann", method: str = "GET") -> int:
    return await app.status(f"/nd/sd/vol/{path}", user=user, method=method)


async def post(app: Running, value: int, channel: str = "img", *, level: int = 0) -> int:
    headers = {"X-Volume-Dtype": "|u1"}
    path = f"/nd/sd/vol/{channel}/raw/{level}/{BOX}/"
    body = bytes([value]) * 40 * 30 * 2
    return (await app.request("POST", path, user="ann", data=body, headers=headers)).status


async def fresh(
    app: Running, level: int, path: str = "sd/vol/img/raw/{level}/0,9/0,9/0,2/"
) -> str | None:
    answer = await app.get(f"/nd/{path.format(level=level)}", user="ann")
    assert answer.status == 200, await answer.text()
    return answer.headers.get("X-Volume-Fresh")


@pytest.fixture
async def volume(app: Running) -> Running:
    await app.make_volume("vol", user="ann", scalinglevels=2, zvoxelres=10.0)
    return app


CHANNELS = "/dataset/vol/project/vol/channel"


async def make_channel(app: Running, name: str, **fields: object) -> None:
    body = {
        "channel_name": name,
        "channel_type": "image",
        "channel_datatype": "uint8",
        **fields,
    }
    await app.make(f"dataset/vol/project/vol/channel/{name}/", body, user="ann")


async def test_a_channel_is_built_and_given_up(volume: Running) -> None:
    assert await post(volume, 7) == 200
    assert await text(volume, "img/getPropagate/") == "0"
    answer = await volume.get("/nd/sd/vol/img/setPropagate/1/", user="ann")
    assert (answer.status, await answer.read()) == (200, b"")
    await propagated(volume)
    level = await volume.get("/nd/sd/vol/img/raw/1/0,20/0,15/0,2/", user="ann")
    assert await level.read() == b"\7" * 20 * 15 * 2
    assert level.headers["X-Volume-Fresh"] == "true"
    assert await status(volume, "img/setPropagate/0/") == 200
    assert await text(volume, "img,lab/getPropagate/") == "0,0"
    assert await fresh(volume, 1) is None


async def test_states_are_joined_in_the_order_of_the_channels(volume: Running) -> None:
    await make_channel(volume, "done", propagate=2)
    assert await text(volume, "lab,done,img/getPropagate/") == "0,2,0"
    answer = await volume.get("/nd/sd/vol/done/getPropagate/", user="ann")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert await status(volume, "done/getPropagate", user=None) == 200


@pytest.mark.parametrize(
    "path",
    [
        "none/getPropagate/",
        "img,none/getPropagate/",
        "default/getPropagate/",
        "none/setPropagate/1/",
        "img/setPropagate/2/",
        "img/setPropagate/3/",
        "img/setPropagate/10/",
        "img/setPropagate/x/",
        "img/setPropagate/-1/",
        "img/setPropagate/1,1/",
        "img,lab/setPropagate/1,0,0/",
        "img,img/setPropagate/1/",
        "img/setPropagate/",
        "done/setPropagate/1/",
        "done/setPropagate/2/",
        "under/setPropagate/0/",
        "under/setPropagate/1/",
        "ro/setPropagate/1/",
        "rodone/setPropagate/0/",
    ],
)
async def test_a_change_that_the_state_forbids_is_not_found(volume: Running, path: str) -> None:
    await make_channel(volume, "done", propagate=2)
    await make_channel(volume, "under", propagate=1)
    await make_channel(volume, "ro", readonly=1)
    await make_channel(volume, "rodone", readonly=1, propagate=2)
    assert await status(volume, path) == 404
    assert await text(volume, "img,lab,done,under,ro,rodone/getPropagate/") == "0,0,2,1,0,2"
    assert await volume.stores.jobs.jobs() == []


async def test_zero_stays_zero_also_where_nothing_may_be_written(volume: Running) -> None:
    await make_channel(volume, "ro", readonly=1)
    assert await status(volume, "img,ro/setPropagate/0/") == 200
    assert await text(volume, "img,ro/getPropagate/") == "0,0"


async def test_nothing_is_begun_if_one_channel_cannot(volume: Running) -> None:
    await make_channel(volume, "ro", readonly=1)
    assert await status(volume, "img,ro/setPropagate/1/") == 404
    assert await text(volume, "img,ro/getPropagate/") == "0,0"


async def test_a_value_for_each_channel_or_one_for_all(volume: Running) -> None:
    await make_channel(volume, "done", propagate=2)
    assert await status(volume, "img,done/setPropagate/1,0/") == 200
    assert await text(volume, "done/getPropagate/") == "0"
    await propagated(volume)
    assert await status(volume, "lab,done/setPropagate/1/") == 200
    await propagated(volume, "lab,done", state="2,2")


async def test_only_who_may_write_starts_it(volume: Running) -> None:
    assert await status(volume, "img/setPropagate/1/", user=None) == 403
    assert await text(volume, "img/getPropagate/") == "0"


async def test_a_head_starts_nothing(volume: Running) -> None:
    assert await status(volume, "img/setPropagate/1/", method="HEAD") == 405
    assert await text(volume, "img/getPropagate/") == "0"


async def test_a_channel_that_is_being_built_takes_no_voxels(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    first_channel = 1
    job = await stores.jobs.submit(PROPAGATE_JOB, first_channel, {})
    # By a worker that takes its time.
    assert await stores.jobs.claim([PROPAGATE_JOB], owner="other", lease_s=60)
    async with running(stores) as app:
        await app.make_volume("vol", user="ann", scalinglevels=2, zvoxelres=10.0)
        path = "/nd/resource/dataset/vol/project/vol/channel/img/"
        answer = await app.request("PUT", path, user="ann", json={"propagate": 1})
        assert answer.status == 200
        assert await post(app, 1) == 404
        assert await fresh(app, 1) == "false"
        assert await stores.jobs.finish(job.id, owner="other")
        assert await post(app, 1) == 200
    await stores.close()


async def test_an_edit_makes_upper_levels_fresh_again_soon(volume: Running) -> None:
    assert await post(volume, 7) == 200
    assert await status(volume, "img/setPropagate/1/") == 200
    await propagated(volume)
    assert await fresh(volume, 0) is None
    assert await post(volume, 9) == 200
    async with asyncio.timeout(30):
        while await fresh(volume, 2) == "false":
            await asyncio.sleep(0.005)
    level = await volume.get("/nd/sd/vol/img/raw/2/0,10/0,7/0,2/", user="ann")
    assert await level.read() == b"\x09" * 10 * 7 * 2


@pytest.mark.parametrize(
    "path",
    [
        "sd/vol/img/raw/{level}/0,9/0,9/0,2/",
        "sd/vol/img/npz/{level}/0,9/0,9/0,2/",
        "sd/vol/img/hdf5/{level}/0,9/0,9/0,2/",
        "sd/vol/img/blosc/{level}/0,9/0,9/0,2/0,2/",
        "sd/vol/img/xy/{level}/0,9/0,9/0/",
        "sd/vol/img/xz/{level}/0,9/0/0,2/",
        "sd/vol/img/maxproj/xy/{level}/0,9/0,9/0,2/",
        "synaptogram/vol/img/xy/{level}/0,9/0,9/0,2/",
    ],
)
async def test_every_kind_of_answer_says_whether_it_is_fresh(volume: Running, path: str) -> None:
    await make_channel(volume, "under", propagate=1)
    assert await post(volume, 7, "under") == 200  # which nobody rebuilds
    path = path.replace("img", "under")
    assert [await fresh(volume, level, path) for level in (0, 1, 2)] == [None, "false", "false"]


@pytest.mark.parametrize("path", ["img/npz", "img/tiff", "img/hdf5", "lab/ids"])
async def test_a_box_that_is_too_large_is_refused_before_it_is_asked_whether_it_is_fresh(
    path: str,
) -> None:
    limits = ServerSettings(max_cutout_bytes=100, max_whole_bytes=100)
    async with running(MemoryStores(), Settings(server=limits)) as app:
        await app.make_volume("vol", user="ann", scalinglevels=2, zvoxelres=10.0)
        for name in ("img", "lab"):
            fields = f"/nd/resource/dataset/vol/project/vol/channel/{name}/"
            answer = await app.request("PUT", fields, user="ann", json={"propagate": 2})
            assert answer.status == 200
        small = await app.get(f"/nd/sd/vol/{path}/1/0,5/0,5/0,1/")
        assert (small.status, small.headers["X-Volume-Fresh"]) == (200, "true")
        large = await app.get(f"/nd/sd/vol/{path}/1/0,90/0,90/0,2/")
        assert large.status == 413
        assert "X-Volume-Fresh" not in large.headers


async def test_the_state_of_a_pyramid_is_told_level_by_level(volume: Running) -> None:
    await make_channel(volume, "under", propagate=1)
    assert await post(volume, 7, "under") == 200
    answer = await volume.get("/nd/sd/vol/under/freshness/", user="ann")
    document = await answer.json()
    assert (document["propagate"], document["base"]) == (1, 0)
    assert document["levels"] == [
        {"level": level, "neariso": False, "state": "stale", "stale_cuboids": 1} for level in (1, 2)
    ]
    assert document["error"] == ""
    absent = await (await volume.get("/nd/sd/vol/img/freshness/", user="ann")).json()
    assert {level["state"] for level in absent["levels"]} == {"absent"}
    assert await status(volume, "none/freshness/") == 404


async def test_a_channel_whose_refresh_is_put_off_says_why(
    volume: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_channel(volume, "kept", propagate=2)

    def is_full(marks: Sequence[StaleMark]) -> CuboidBatch:
        raise StoreFull("no space is left")

    monkeypatch.setattr(volume.stores.stale, "derivation", is_full)
    assert await post(volume, 7, "kept") == 200
    path = "/nd/sd/vol/kept/freshness/"
    async with asyncio.timeout(20):
        while not (told := await (await volume.get(path, user="ann")).json())["error"]:
            await asyncio.sleep(0.02)
    assert told["error"] == "no space is left"
    assert {level["state"] for level in told["levels"]} == {"stale"}
    [job] = (await (await volume.get("/jobs/", user="ann")).json())["jobs"]
    assert (job["state"], job["error"]) == ("STARTED", "no space is left")


async def test_the_state_of_a_channel_with_voxels_is_no_field_to_be_set(volume: Running) -> None:
    path = "/nd/resource/dataset/vol/project/vol/channel/img/"
    assert (await volume.request("PUT", path, user="ann", json={"propagate": 2})).status == 200
    assert (await volume.request("PUT", path, user="ann", json={"propagate": 0})).status == 200
    assert await post(volume, 7) == 200
    for fields in ({"propagate": 2}, {"downsampling": "mean"}, {"resolution": 1}):
        refused = await volume.request("PUT", path, user="ann", json=fields)
        assert refused.status == 409
    assert await text(volume, "img/getPropagate/") == "0"


async def test_the_option_of_a_channel_is_shown_only_where_it_was_chosen(volume: Running) -> None:
    await make_channel(volume, "soft", downsampling="mean")
    path = "/nd/resource/dataset/vol/project/vol/channel/{}/"
    soft = await (await volume.get(path.format("soft"), user="ann")).json()
    plain = await (await volume.get(path.format("img"), user="ann")).json()
    assert soft["downsampling"] == "mean"
    assert "downsampling" not in plain
    wrong = await volume.request(
        "POST",
        path.format("odd"),
        user="ann",
        json={
            "channel_name": "odd",
            "channel_type": "annotation",
            "channel_datatype": "uint32",
            "downsampling": "mean",
        },
    )
    assert wrong.status == 400

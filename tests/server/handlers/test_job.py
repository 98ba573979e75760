"""Background work over HTTP."""

import asyncio
from pathlib import Path

import pytest

from ndcass.jobs.index import INDEX_JOB
from ndcass.propagation import PROPAGATE_JOB
from ndcass.store.base import Job
from ndcass.store.embedded import open_embedded
from tests.server.running import Running, running


@pytest.fixture
async def job(app: Running) -> Job:
    """A job that no worker knows how to do, of a channel of Ann's."""
    await app.make_volume("vol", user="ann")
    channel = await app.stores.catalog.channel("vol", "img")
    return await app.stores.jobs.submit("a kind of later", channel.id, {"level": 2})


async def test_a_job_is_told_to_its_owner(app: Running, job: Job) -> None:
    answer = await app.get(f"/jobs/{job.id}/", user="ann")
    assert answer.status == 200
    found = await answer.json()
    assert found["created"].endswith("+00:00")
    del found["created"]
    assert found == {
        "id": job.id,
        "kind": "a kind of later",
        "state": "PENDING",
        "project": "vol",
        "channel": "img",
        "done_units": 0,
        "total_units": 0,
        "error": "",
        "detail": {"level": 2},
    }
    listed = await (await app.get("/jobs/", user="ann")).json()
    assert [each["id"] for each in listed["jobs"]] == [job.id]
    assert (await (await app.get("/jobs/", user="bob")).json()) == {"jobs": []}


async def test_strangers_are_told_nothing(app: Running, job: Job) -> None:
    assert await app.status(f"/jobs/{job.id}/", user="bob") == 404
    assert await app.status(f"/jobs/{job.id}/", user="bob", method="DELETE") == 404
    for path in ("/jobs/", f"/jobs/{job.id}/"):
        answer = await app.get(path)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Token")
    assert await app.status("/jobs/nothing/", user="ann") == 404


async def test_a_pyramid_of_hours_holds_up_no_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def for_hours(*_: object, **__: object) -> None:
        begun.set()
        await stopped.wait()

    monkeypatch.setattr("ndcass.jobs.propagate_channel", for_hours)
    stores = await open_embedded(tmp_path / "data")
    async with running(stores) as app, asyncio.timeout(20):  # with one worker
        await app.make_volume("vol")
        channel = await app.stores.catalog.channel("vol", "lab")
        jobs = app.stores.jobs
        await jobs.submit(PROPAGATE_JOB, channel.id, {})
        await begun.wait()
        other = await jobs.submit(INDEX_JOB, channel.id, {})
        while (await jobs.job(other.id)).state != "SUCCESS":
            await asyncio.sleep(0.05)
        stopped.set()
    await stores.close()


async def test_a_job_is_cancelled_once(app: Running, job: Job) -> None:
    answer = await app.request("DELETE", f"/jobs/{job.id}/", user="ann")
    assert (answer.status, (await answer.json())["state"]) == (200, "REVOKED")
    assert await app.status(f"/jobs/{job.id}/", user="ann", method="DELETE") == 409

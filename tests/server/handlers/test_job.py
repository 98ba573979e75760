"""Background work over HTTP."""

import pytest

from ndcass.store.base import Job
from tests.server.running import Running


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


async def test_a_job_is_cancelled_once(app: Running, job: Job) -> None:
    answer = await app.request("DELETE", f"/jobs/{job.id}/", user="ann")
    assert (answer.status, (await answer.json())["state"]) == (200, "REVOKED")
    assert await app.status(f"/jobs/{job.id}/", user="ann", method="DELETE") == 409

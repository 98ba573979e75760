"""``ndcass jobs`` against a running server."""

import asyncio
import sys
from collections.abc import Callable

from ndcass.store.embedded import open_embedded
from tests.processes import KEY, Gateway, Outcome, environment


def propagate(server: Gateway, target: str) -> None:
    server.request("GET", f"/nd/sd/{target}/setPropagate/1/")


def test_a_job_is_watched_to_its_end(
    server: Gateway, new_channel: Callable[..., str], ndcass: Callable[..., Outcome]
) -> None:
    target = new_channel()
    propagate(server, target)
    listed = ndcass("jobs", "list", "--json").result["jobs"]
    job = next(job for job in listed if job["channel"] == target.split("/")[1])
    watched = ndcass("jobs", "watch", job["id"], "--quiet", "--json")
    assert watched.code == 0, watched.err
    assert watched.result["state"] == "SUCCESS"
    shown = ndcass("jobs", "show", job["id"]).out
    assert f"propagate of P/{job['channel']}" in shown
    assert "SUCCESS" in shown
    assert job["id"] in ndcass("jobs", "list").out
    assert job["id"] not in ndcass("jobs", "list", "--open").out


async def test_a_job_that_is_put_off_says_why(
    server: Gateway, new_channel: Callable[..., str]
) -> None:
    name = new_channel().split("/")[1]
    stores = await open_embedded(server.folder)
    channel = await stores.catalog.channel("P", name)
    # Of a kind that the server does not know.
    job = await stores.jobs.submit("later", channel.id, {})
    assert await stores.jobs.claim(["later"], owner="test", lease_s=3600)
    assert await stores.jobs.put_off(job.id, owner="test", reason="no space is left")

    shown, _ = await (await started(server, "jobs", "show", job.id)).communicate()
    assert b"state:    STARTED" in shown
    assert b"put off:  no space is left" in shown
    watching = await started(server, "jobs", "watch", job.id)
    assert watching.stderr is not None
    said = await watching.stderr.readline()
    assert said == f"later of P/{name} is put off: no space is left\n".encode()
    assert await stores.jobs.finish(job.id, owner="test")
    at_the_end, _ = await watching.communicate()
    assert watching.returncode == 0
    assert b"SUCCESS" in at_the_end
    assert b"put off" not in at_the_end
    await stores.close()


async def started(server: Gateway, *line: str) -> asyncio.subprocess.Process:
    """``ndcass``, running, with the admin's key."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ndcass.cli.main", *line),
        env=environment(NDCASS_URL=server.url, NDCASS_API_KEY=KEY),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def test_a_job_that_has_ended_cannot_be_cancelled(
    server: Gateway, new_channel: Callable[..., str], ndcass: Callable[..., Outcome]
) -> None:
    target = new_channel()
    propagate(server, target)
    listed = ndcass("jobs", "list", "--json").result["jobs"]
    job = next(job for job in listed if job["channel"] == target.split("/")[1])
    assert ndcass("jobs", "watch", job["id"], "--quiet").code == 0
    refused = ndcass("jobs", "cancel", job["id"])
    assert refused.code == 1
    assert "has ended" in refused.err


def test_a_job_that_is_not_there_is_said_to_be(ndcass: Callable[..., Outcome]) -> None:
    for action in ("show", "watch", "cancel"):
        refused = ndcass("jobs", action, "nothing")
        assert refused.code == 1
        assert "there is no job nothing" in refused.err


def test_somebody_without_a_key_sees_no_jobs(ndcass: Callable[..., Outcome]) -> None:
    refused = ndcass("jobs", "list", NDCASS_API_KEY="")
    assert refused.code == 1
    assert "NDCASS_API_KEY is not set" in refused.err

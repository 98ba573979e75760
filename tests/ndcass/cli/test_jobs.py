"""``ndcass jobs`` against a running server."""

from collections.abc import Callable

from tests.processes import Gateway, Outcome


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

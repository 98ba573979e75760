"""Background work as its owners see it: a list, one job, cancelling it."""

import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from ndcass.jobs.access import ShownJob, cancel_visible_job, visible_job, visible_jobs
from ndcass.server.access import caller
from ndcass.server.app_keys import STORES
from ndcass.server.match import Match


async def list_jobs(request: web.Request, match: Match) -> web.Response:
    """GET the jobs of the caller's channels, newest first."""
    jobs = await visible_jobs(request.app[STORES], await caller(request))
    return _json({"jobs": [_document(shown) for shown in jobs]})


async def read_job(request: web.Request, match: Match) -> web.Response:
    """GET one job."""
    shown = await visible_job(request.app[STORES], await caller(request), match.names["job"])
    return _json(_document(shown))


async def cancel_job(request: web.Request, match: Match) -> web.Response:
    """DELETE: cancel a job that has not ended."""
    stores = request.app[STORES]
    shown = await cancel_visible_job(stores, await caller(request), match.names["job"])
    return _json(_document(shown))


def _document(shown: ShownJob) -> dict[str, Any]:
    """What is told of a job; `Any` is what JSON can hold."""
    job, channel = shown.job, shown.channel
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "project": channel.project if channel else None,
        "channel": channel.channel_name if channel else None,
        "done_units": job.done_units,
        "total_units": job.total_units,
        "error": job.error,
        "created": datetime.fromtimestamp(job.created_s, UTC).isoformat(timespec="seconds"),
        "detail": dict(job.detail),
    }


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json")

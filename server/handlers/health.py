"""For operators: whether we live, whether we can serve, what we did and what we answer to."""

import json
from collections import Counter

from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.errors import StoreError
from ndcass.server import metrics as names
from ndcass.server.app_keys import METRICS, ROUTER, STORES
from ndcass.server.background import settle, worker_gauges
from ndcass.server.http_errors import RETRY_AFTER_S
from ndcass.server.match import Match
from ndcass.server.metrics import Labels, Metrics, read_snapshots
from ndcass.server.openapi import openapi_document


async def healthz(request: web.Request, match: Match) -> web.Response:
    """GET 200 while the process lives."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request, match: Match) -> web.Response:
    """GET 200 when the store answers, else 503 with the reason."""
    try:
        health = await request.app[STORES].health()
        ready, reason, details = health.ready, health.reason, dict(health.details)
    except StoreError as error:
        ready, reason, details = False, str(error), {}
    return web.Response(
        status=200 if ready else 503,
        text=json.dumps({"ready": ready, "reason": reason, **details}) + "\n",
        content_type="application/json",
        headers={} if ready else {"Retry-After": str(RETRY_AFTER_S)},
    )


async def read_metrics(request: web.Request, match: Match) -> web.Response:
    """GET the numbers of all workers as Prometheus text."""
    settle(request.app)
    metrics = request.app[METRICS]
    total = Metrics()
    total.take_over(metrics.snapshot())
    gauges: dict[tuple[str, Labels], float] = {
        (name, (str(metrics.worker),)): value for name, value in worker_gauges(request.app).items()
    }
    if metrics.folder is not None:
        others = await run_cpu(read_snapshots, metrics.folder, but=metrics.worker)
        for worker, snapshot in others:
            total.take_over(snapshot)
            for name, value in snapshot["gauges"].items():
                gauges[name, (str(worker),)] = value
    gauges.update(await _jobs(request))
    return web.Response(
        body=total.render(gauges).encode(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def _jobs(request: web.Request) -> dict[tuple[str, Labels], float]:
    """How many jobs are in which state; none where the store cannot say."""
    try:
        jobs = await request.app[STORES].jobs.jobs()
    except StoreError:
        return {}
    counts = Counter((job.kind, str(job.state)) for job in jobs)
    return {(names.JOBS, labels): count for labels, count in counts.items()}


async def read_openapi(request: web.Request, match: Match) -> web.Response:
    """GET the description of every route."""
    document = openapi_document(request.app[ROUTER].routes)
    return web.Response(text=json.dumps(document, indent=1), content_type="application/json")

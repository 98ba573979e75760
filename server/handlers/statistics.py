"""Histograms and statistics: ordered (genhist), followed, read."""

import json
import math
import re
from fractions import Fraction
from typing import Any

from aiohttp import web

from ndcass import statistics
from ndcass.concurrency import run_cpu
from ndcass.errors import BadBody, InvalidRequest
from ndcass.geometry import Box
from ndcass.histogram import Histogram
from ndcass.model import Channel, TokenView
from ndcass.server.access import open_token
from ndcass.server.app_keys import STORES
from ndcass.server.cutout import channel_of
from ndcass.server.match import Match
from ndcass.server.params import json_body

# What `all` gives.
PERCENTS = ("1", "50", "99")
_PERCENT = re.compile(r"-?[0-9]{1,10}(?:\.[0-9]{0,20})?")
# A point of a region: x, y, z.
_AXES = 3
_CORNERS = 2


# -- ordering


async def order_histogram(request: web.Request, match: Match) -> web.Response:
    """Have the histogram of a whole channel made; old clients GET what starts work."""
    view, channel = await _open(request, match, write=True)
    [job] = await statistics.order(request.app[STORES], view, channel)
    return _json(
        {
            "token": match.token,
            "channel": match.names["channel"],
            "jobid": job.id,
            "state": job.state,
        }
    )


async def order_regions(request: web.Request, match: Match) -> web.Response:
    """Have histograms of some regions made."""
    view, channel = await _open(request, match, write=True)
    regions = _posted_regions(await json_body(request))
    jobs = await statistics.order(request.app[STORES], view, channel, regions)
    results = [
        {"jobid": job.id, "roi": _corners(region), "state": job.state}
        for job, region in zip(jobs, regions, strict=True)
    ]
    return _json({"token": match.token, "channel": match.names["channel"], "results": results})


async def read_job(request: web.Request, match: Match) -> web.Response:
    """How far a job that makes a histogram is."""
    _, channel = await _open(request, match)
    job = await statistics.job_of(request.app[STORES], channel, match.names["job"])
    return _json(
        {
            "jobid": job.id,
            "state": job.state,
            "done": job.done_units,
            "total": job.total_units,
            "error": job.error,
        }
    )


def _posted_regions(body: dict[str, Any]) -> list[Box]:
    """The regions of a request; `Any` is whatever JSON holds.

    Raises
    ------
    InvalidRequest
        If they are none.
    """
    if "RAMON" in body:
        raise InvalidRequest("histograms of RAMON objects are not made; ROI names regions")
    if "ROI" not in body:
        raise InvalidRequest('the body must be {"ROI": [[[x0, y0, z0], [x1, y1, z1]], ...]}')
    regions = body["ROI"]
    if not isinstance(regions, list):
        raise InvalidRequest("ROI must be a list of regions")
    return [_posted_region(region) for region in regions]


def _posted_region(region: Any) -> Box:
    if not isinstance(region, list) or len(region) != _CORNERS:
        raise InvalidRequest("a region has two points: [[x0, y0, z0], [x1, y1, z1]]")
    low, high = (_posted_point(point) for point in region)
    return Box(low, high)


def _posted_point(point: Any) -> tuple[int, int, int]:
    if not isinstance(point, list) or len(point) != _AXES:
        raise InvalidRequest("a point of a region has three numbers: x, y, z")
    x, y, z = (_whole_number(value) for value in point)
    return z, y, x


def _whole_number(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadBody("the coordinates of a region are whole numbers")
    return value


def _corners(region: Box) -> list[list[int]]:
    return [list(region.start_zyx[::-1]), list(region.stop_zyx[::-1])]


# -- reading


async def read_histogram(request: web.Request, match: Match) -> web.Response:
    """The histogram of a whole channel."""
    return await run_cpu(_counts, await _whole(request, match))


async def list_regions(request: web.Request, match: Match) -> web.Response:
    """The regions that have a histogram."""
    _, channel = await _open(request, match)
    regions = await statistics.regions_of(request.app[STORES], channel)
    return _json([_corners(region) for region in regions])


async def read_region(request: web.Request, match: Match) -> web.Response:
    """The histogram of a region."""
    region, histogram = await _region(request, match)
    return await run_cpu(_counts, histogram, roi=_corners(region))


async def read_binned_region(request: web.Request, match: Match) -> web.Response:
    """The histogram of a region, ten bins added up to one."""
    region, histogram = await _region(request, match)
    hist, bins = histogram.binned()
    return _json({"hist": hist, "bins": bins, "roi": _corners(region)})


async def read_all(request: web.Request, match: Match) -> web.Response:
    """The histogram of a whole channel and all that follows from it."""
    return await run_cpu(_all, await _whole(request, match))


async def read_mean(request: web.Request, match: Match) -> web.Response:
    """The mean alone."""
    return _number((await _whole(request, match)).mean)


async def read_stddev(request: web.Request, match: Match) -> web.Response:
    """The standard deviation alone."""
    return _number((await _whole(request, match)).stddev)


async def read_percentile(request: web.Request, match: Match) -> web.Response:
    """One percentile, by the name that the URL gives it."""
    text = match.tail.removesuffix("/")
    if not _PERCENT.fullmatch(text):
        raise InvalidRequest(f"{text[:80]!r} is no percentage, as 50 or 95.99")
    histogram = await _whole(request, match)
    return _json({text: histogram.percentile(Fraction(text))})


async def _whole(request: web.Request, match: Match) -> Histogram:
    _, channel = await _open(request, match)
    return await statistics.histogram_of(request.app[STORES], channel)


async def _region(request: web.Request, match: Match) -> tuple[Box, Histogram]:
    _, channel = await _open(request, match)
    region = statistics.region_of(match.tail)
    return region, await statistics.histogram_of(request.app[STORES], channel, region)


async def _open(
    request: web.Request, match: Match, *, write: bool = False
) -> tuple[TokenView, Channel]:
    """What a token and a channel's name lead to; whoever has work done needs to be allowed to."""
    view = await open_token(request, match.token, write=write)
    return view, channel_of(view, match.names["channel"])


# -- answers


def _counts(histogram: Histogram, **more: object) -> web.Response:
    return _json({"hist": histogram.counts.tolist(), "bins": histogram.edges, **more})


def _all(histogram: Histogram) -> web.Response:
    return _json(
        {
            "hist": histogram.counts.tolist(),
            "bins": histogram.edges,
            "mean": _or_null(histogram.mean),
            "stddev": _or_null(histogram.stddev),
            "percents": {p: histogram.percentile(Fraction(p)) for p in PERCENTS},
            "min": histogram.minimum,
            "max": histogram.maximum,
        }
    )


def _or_null(number: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(number) else number


def _number(number: float) -> web.Response:
    return web.Response(text=str(number), content_type="text/html")


def _json(document: object) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json")

"""Pages for people: what is public, a project, a channel section by section; and their files."""

from aiohttp import web

from ndcass import resources, statistics
from ndcass.concurrency import run_cpu
from ndcass.errors import NotFound
from ndcass.histogram import Histogram
from ndcass.model import Channel
from ndcass.propagation import level_states
from ndcass.server.access import open_token
from ndcass.server.app_keys import STORES
from ndcass.server.assets import ASSETS
from ndcass.server.cutout import channel_of
from ndcass.server.html import project_page, start_page
from ndcass.server.html_view import view_page
from ndcass.server.match import Match
from ndcass.server.view import View, default_window

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    # Style, script and pictures of this server, and nothing in the page itself.
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # The state of a volume is of now.
    "Cache-Control": "no-cache",
}
_ASSET_KEPT = "public, max-age=31536000, immutable"


async def read_page(request: web.Request, match: Match) -> web.Response:
    """GET what is public."""
    shown, left_out = await resources.public_views(request.app[STORES].catalog)
    return _page(start_page(shown, left_out=left_out))


async def read_project(request: web.Request, match: Match) -> web.Response:
    """GET one project."""
    view = await open_token(request, match.token, write=False)
    shown = resources.PublicProject(view.dataset, view.project, view.channels, match.token)
    return _page(project_page(shown))


async def read_channel(request: web.Request, match: Match) -> web.Response:
    """GET a section of a channel and what is around it."""
    opened = await open_token(request, match.token, write=False)
    channel = channel_of(opened, match.names["channel"])
    histogram = await _histogram(request, channel)
    window = default_window(channel, histogram)
    shown = View.from_query(opened, channel, request.query, window=window)
    states = await level_states(request.app[STORES], channel, opened.dataset.geometry)
    text = await run_cpu(
        view_page,
        opened,
        shown,
        states=states,
        histogram=histogram,
    )
    return _page(text)


async def read_asset(request: web.Request, match: Match) -> web.Response:
    """GET a file that pages load."""
    asset = ASSETS[match.service]
    kept = request.query_string == asset.digest
    return web.Response(
        body=asset.body,
        headers={
            "Content-Type": f"{asset.content_type}; charset=utf-8",
            "Cache-Control": _ASSET_KEPT if kept else "no-cache",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _page(text: str) -> web.Response:
    return web.Response(body=text.encode(), headers=_HEADERS)


async def _histogram(request: web.Request, channel: Channel) -> Histogram | None:
    try:
        return await statistics.histogram_of(request.app[STORES], channel)
    except NotFound:
        return None

"""The start page: what is public here, with a picture of each channel and where to go on."""

from aiohttp import web

from ndcass import resources
from ndcass.server.app_keys import STORES
from ndcass.server.html import start_page
from ndcass.server.match import Match

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    # The page has no script and shows pictures of this server only.
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"
    ),
    "X-Content-Type-Options": "nosniff",
}


async def read_page(request: web.Request, match: Match) -> web.Response:
    """GET the page."""
    shown, left_out = await resources.public_views(request.app[STORES].catalog)
    return web.Response(body=start_page(shown, left_out=left_out).encode(), headers=_HEADERS)

"""Links of old to the viewer that the original had beside it."""

from urllib.parse import quote

from aiohttp import web

from ndcass.errors import NotFound
from ndcass.server.app_keys import SETTINGS
from ndcass.server.match import Match

# What may stand in the path of a URL (RFC 3986, 3.3).
_SAFE = "/-._~!$&'()*+,;=:@"


async def redirect(request: web.Request, match: Match) -> web.StreamResponse:
    """GET sends the client to the same path on the viewer's server; a query is dropped."""
    if not match.tail:
        raise NotFound("name what is to be shown: /viz/...")
    server = request.app[SETTINGS].pictures.viz_server.rstrip("/")
    location = f"{server}/{quote(match.tail, safe=_SAFE)}"
    return web.Response(status=301, headers={"Location": location})

"""One request and its answer, as far as more than one module needs to know."""

import time

from aiohttp import web

from ndcass.server.http_errors import Plane
from ndcass.server.match import Match
from ndcass.server.routing import Route


class Exchange:
    """What is known of a request while it is answered.

    Attributes
    ----------
    request_id : str
    plane : Plane
        Whose habits the answer follows.
    route : Route or None
        None where no route fits the path.
    match : Match
    response : StreamResponse or None
        Set when its headers are about to be sent: from then on a failure can only break the
        connection.
    broken : bool
        Whether that happened.
    """

    __slots__ = (
        "began_s",
        "broken",
        "match",
        "plane",
        "request_id",
        "response",
        "route",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.began_s = time.perf_counter()
        self.plane = Plane.OWN
        self.route: Route | None = None
        self.match = Match()
        self.response: web.StreamResponse | None = None
        self.broken = False


EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)


def exchange_of(request: web.Request) -> Exchange:
    """The exchange that the gateway opened for a request."""
    return request[EXCHANGE]

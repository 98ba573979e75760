"""One request and its answer, as far as more than one module needs to know."""

import time

from aiohttp import web

from ndcass.server.http_errors import Plane
from ndcass.server.match import Match
from ndcass.server.progress import Progress
from ndcass.server.routing import Route, plane_of
from ndcass.volume import Usage

_NO_MATCH = Match()


class Exchange:
    """What is known of a request while it is answered.

    Attributes
    ----------
    request_id : str
    progress : Progress
        Its deadline.
    usage : Usage
        What it took so far, for the log and the metrics.
    path : str
        As the route table has it; empty as long as that is not known.
    route : Route or None
        None where no route fits the path.
    match : Match
    asked_for_body : bool
        Whether a client that waits with its body was told to send it.
    response : StreamResponse or None
        Set when its headers are about to be sent: from then on a failure can only break the
        connection.
    broken : bool
        Whether that happened.
    is_fresh : bool or None
        Whether derived voxels of the answer are as new as all writes; None where there are none.
    """

    __slots__ = (
        "asked_for_body",
        "began_s",
        "broken",
        "is_fresh",
        "match",
        "path",
        "progress",
        "request_id",
        "response",
        "route",
        "usage",
    )

    def __init__(
        self, request_id: str, progress: Progress, *, max_source_bytes: int | None = None
    ) -> None:
        self.request_id = request_id
        self.progress = progress
        self.began_s = time.perf_counter()
        self.usage = Usage(max_source_bytes=max_source_bytes)
        self.path = ""
        self.route: Route | None = None
        self.match = _NO_MATCH
        self.asked_for_body = False
        self.response: web.StreamResponse | None = None
        self.broken = False
        self.is_fresh: bool | None = None

    @property
    def plane(self) -> Plane:
        """Whose habits the answer follows."""
        return plane_of(self.route.template if self.route is not None else self.path)


EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)


def exchange_of(request: web.Request) -> Exchange:
    """The exchange that the gateway opened for a request."""
    return request[EXCHANGE]

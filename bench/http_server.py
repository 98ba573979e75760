"""An aiohttp handler that sends bytes from RAM. ``python -m bench.http_server PORT SIZE [quiet]``.

On uvloop and with an access log, as the gateway; `quiet` leaves the log out.
"""

import logging
import sys

import uvloop
from aiohttp import web


def main() -> None:
    """Listen until the process is ended."""
    port, size = int(sys.argv[1]), int(sys.argv[2])
    body = bytes(range(256)) * (size // 256)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/octet-stream")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    logging.basicConfig(level=logging.INFO)
    log = None if sys.argv[3:] == ["quiet"] else logging.getLogger("aiohttp.access")
    web.run_app(
        app, host="127.0.0.1", port=port, loop=uvloop.new_event_loop(), print=None, access_log=log
    )


if __name__ == "__main__":
    main()

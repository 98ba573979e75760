"""Arguments that several commands share, and how their texts are read."""

import argparse
import re
from collections.abc import Callable
from typing import NamedTuple

from ndcass.errors import InvalidRequest
from ndcass.geometry import Box, Zyx

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_PARALLEL = 2
DEFAULT_BOX_MIB = 32

_TARGET = re.compile(r"([A-Za-z0-9_]{1,255})/([A-Za-z0-9_]{1,255})\Z")


class Target(NamedTuple):
    """A channel as a client names it."""

    token: str
    channel: str

    def __str__(self) -> str:
        return f"{self.token}/{self.channel}"


def target(text: str) -> Target:
    """``TOKEN/CHANNEL``."""
    found = _TARGET.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not TOKEN/CHANNEL")
    return Target(*found.groups())


def corner(text: str) -> Zyx:
    """``x,y,z`` as z, y, x."""
    x, y, z = _numbers(text, 3, "x,y,z")
    return (z, y, x)


def span(text: str) -> tuple[int, int]:
    """``t0,t1``, half open and not empty."""
    start, stop = _numbers(text, 2, "t0,t1")
    if start >= stop:
        raise argparse.ArgumentTypeError(f"{text!r} is empty or inverted")
    return (start, stop)


def box(text: str) -> Box:
    """``x0,x1/y0,y1/z0,z1``, half open, as a box of order z, y, x."""
    form = "x0,x1/y0,y1/z0,z1"
    parts = text.split("/")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    (x0, x1), (y0, y1), (z0, z1) = (_numbers(part, 2, form) for part in parts)
    try:
        return Box((z0, y0, x0), (z1, y1, x1))
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(f"{text!r} is empty or inverted") from error


def at_least(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return read


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``, for every command that prints a result."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_server(parser: argparse.ArgumentParser) -> None:
    """Where the server is, for commands that are its clients."""
    parser.add_argument(
        "--url",
        help=f"the server (default: NDCASS_URL, else {DEFAULT_URL}); the API key is taken from "
        "NDCASS_API_KEY or the file that NDCASS_API_KEY_FILE names",
    )


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """How much is asked for at once."""
    parser.add_argument(
        "--parallel",
        type=at_least(1),
        default=DEFAULT_PARALLEL,
        metavar="N",
        help="requests in flight (default: %(default)s)",
    )
    parser.add_argument(
        "--box-mib",
        type=at_least(1),
        default=DEFAULT_BOX_MIB,
        metavar="N",
        help="the most that one request moves (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _numbers(text: str, count: int, form: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != count or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return tuple(int(part) for part in parts)

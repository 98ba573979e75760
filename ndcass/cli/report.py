"""What commands print: a result, as text or as JSON, and how far they have come."""

import argparse
import json
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import tqdm


def print_result(args: argparse.Namespace, result: Mapping[str, Any], text: str) -> None:
    """The result of a command on standard output; `Any` is what JSON can hold."""
    print(json.dumps(result) if args.json else text)


class Progress:
    """A bar on standard error with rate and time left; silent where that is no terminal.

    It counts bytes, if no other unit is named. Threads may share it.
    """

    def __init__(self, what: str, total: int | None, *, quiet: bool, unit: str = "B") -> None:
        self._bar = tqdm.tqdm(
            desc=what,
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            unit_divisor=1024,
            disable=True if quiet else None,
        )

    def add(self, count: int) -> None:
        """So much more is done."""
        self._bar.update(count)

    def of(self, total: int) -> None:
        """How much there is has become known, or has changed."""
        self._bar.total = total or None

    def say(self, line: str) -> None:
        """A line on standard error, also where there is no bar."""
        self._bar.write(line, file=sys.stderr)

    def skip(self, size_bytes: int) -> None:
        """So much was done before; it does not count for the rate."""
        if not self._bar.disable:
            self._bar.initial += size_bytes
            self._bar.update(size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

"""What commands print: a result, as text or as JSON, and how far they have come."""

import argparse
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import tqdm


def print_result(args: argparse.Namespace, result: Mapping[str, Any], text: str) -> None:
    """The result of a command on standard output; `Any` is what JSON can hold."""
    print(json.dumps(result) if args.json else text)


class Progress:
    """A bar on standard error with rate and time left; silent where that is no terminal.

    Threads may share it.
    """

    def __init__(self, what: str, total_bytes: int | None, *, quiet: bool) -> None:
        self._bar = tqdm.tqdm(
            desc=what,
            total=total_bytes,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=True if quiet else None,
        )

    def add(self, size_bytes: int) -> None:
        """So much more is done."""
        self._bar.update(size_bytes)

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

"""The store in a folder, for commands that work on it directly; a server may run meanwhile."""

import argparse
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from ndcass.cli.failure import CommandFailed
from ndcass.store.base import Stores
from ndcass.store.embedded import MARKER_NAME, open_embedded

DEFAULT_FOLDER = "data"


def add_data(parser: argparse.ArgumentParser, *, default: str | None = DEFAULT_FOLDER) -> None:
    """``--data``."""
    text = "the folder of the store" + (f" (default: {default})" if default else "")
    parser.add_argument("--data", type=Path, metavar="DIR", default=default, help=text)


@contextlib.asynccontextmanager
async def existing_store(folder: Path) -> AsyncIterator[Stores]:
    """Open a store that somebody made before.

    Raises
    ------
    CommandFailed
        If there is none: a typing error must not make an empty one.
    """
    if not _is_store(folder):
        raise CommandFailed(f"no store in {folder}: `ndcass serve --data {folder}` makes one")
    stores = await open_embedded(folder)
    try:
        yield stores
    finally:
        await stores.close()


def _is_store(folder: Path) -> bool:
    return (folder / MARKER_NAME).is_file()

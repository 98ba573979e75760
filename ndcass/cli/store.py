"""The store, for commands that work on it directly; a server may run meanwhile."""

import argparse
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from ndcass.cli.failure import CommandFailed
from ndcass.config import Settings, load
from ndcass.store.base import Stores
from ndcass.store.embedded import MARKER_NAME
from ndcass.store.engine import open_stores

DEFAULT_FOLDER = "data"


def add_store(parser: argparse.ArgumentParser, *, default: str | None = DEFAULT_FOLDER) -> None:
    """``--data`` and ``--conf``."""
    text = "the folder of the store" + (f" (default: {default})" if default else "")
    parser.add_argument("--data", metavar="DIR", help=text)
    add_conf(parser)


def add_conf(parser: argparse.ArgumentParser) -> None:
    """``--conf``."""
    parser.add_argument("--conf", type=Path, metavar="FILE", help="settings; see conf/README.md")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that ``--conf`` and ``--data`` name."""
    return load(args.conf, os.environ, overrides={"store.folder": args.data})


@contextlib.asynccontextmanager
async def existing_store(settings: Settings) -> AsyncIterator[Stores]:
    """Open a store that somebody made before.

    Raises
    ------
    CommandFailed
        If there is none: a typing error must not make an empty one.
    """
    folder = Path(settings.store.folder)
    if settings.store.engine == "embedded" and not (folder / MARKER_NAME).is_file():
        raise CommandFailed(f"no store in {folder}: `ndcass serve --data {folder}` makes one")
    stores = await open_stores(settings)
    try:
        yield stores
    finally:
        await stores.close()

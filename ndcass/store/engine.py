"""Opens whichever engine the settings name."""

from pathlib import Path

from ndcass.config import Settings
from ndcass.store.base import Stores


async def open_stores(settings: Settings) -> Stores:
    """The stores of an engine; whoever opened them closes them.

    Raises
    ------
    StoreError
        If the engine cannot be opened.
    """
    # An engine is imported when it is wanted: commands are quicker without the other's libraries.
    if settings.store.engine == "cassandra":
        from ndcass.store.cassandra import open_cassandra

        return await open_cassandra(settings.cassandra)
    from ndcass.store.embedded import open_embedded

    return await open_embedded(Path(settings.store.folder))

"""Opens whichever engine the settings name, and the cache of pictures beside it."""

from pathlib import Path

from ndcass.config import Settings
from ndcass.store.base import Stores
from ndcass.store.picture_cache import PictureCache

# In the folder of an embedded store.
PICTURES_FOLDER = "pictures"


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


def open_pictures(settings: Settings) -> PictureCache | None:
    """The cache of pictures, once the stores are open; None where none is wanted. Blocks."""
    wanted = settings.tile_cache
    if not wanted.max_bytes:
        return None
    if wanted.folder:
        folder = Path(wanted.folder)
    elif settings.store.engine == "embedded":
        folder = Path(settings.store.folder) / PICTURES_FOLDER
    else:
        return None
    return PictureCache.open(folder, limit_bytes=wanted.max_bytes)

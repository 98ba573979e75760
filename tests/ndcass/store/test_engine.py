"""Where the settings put the cache of pictures."""

from pathlib import Path

import pytest

from ndcass.config import CassandraSettings, Settings, StoreSettings, TileCacheSettings
from ndcass.store.engine import open_pictures


@pytest.mark.parametrize(
    ("engine", "folder", "expected"),
    [
        ("embedded", "", "data/pictures"),
        ("embedded", "cache", "cache"),
        ("cassandra", "", None),
        ("cassandra", "cache", "cache"),
    ],
)
def test_pictures_are_kept_where_the_settings_say(
    tmp_path: Path, engine: str, folder: str, expected: str | None
) -> None:
    settings = Settings(
        store=StoreSettings(engine=engine, folder=str(tmp_path / "data")),
        cassandra=CassandraSettings(),
        tile_cache=TileCacheSettings(folder=str(tmp_path / folder) if folder else ""),
    )
    (tmp_path / "data").mkdir()
    assert (open_pictures(settings) is None) is (expected is None)
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("0") if path.is_dir()]
    assert made == ([Path(expected) / "0"] if expected else [])


def test_none_are_kept_if_none_are_wanted(tmp_path: Path) -> None:
    settings = Settings(
        store=StoreSettings(folder=str(tmp_path)), tile_cache=TileCacheSettings(max_bytes=0)
    )
    assert open_pictures(settings) is None
    assert list(tmp_path.iterdir()) == []

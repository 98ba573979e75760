"""The tail of a tile URL -> a typed request (data plane 9.4).

Rows come before columns in these names, except in Viking's.
"""

import re
from typing import NamedTuple

from ndcass.errors import InvalidRequest
from ndcass.server.volume_params import filter_ids, timestep

_ZEROS = r"(?:0(?=[0-9]))*+"
_NUMBER = rf"{_ZEROS}([0-9]{{1,19}})"
# What follows the ending is ignored, as it always was.
_TILE = re.compile(
    rf"(?:filter/([^/]*)/)?(?:([0-9]++)/)?{_NUMBER}/{_NUMBER}_{_NUMBER}_{_NUMBER}\.png.*\Z",
    re.DOTALL,
)
_VIKING = re.compile(rf"{_NUMBER}/X{_NUMBER}_Y{_NUMBER}_Z{_NUMBER}\.png\Z")


class TileParams(NamedTuple):
    """A request for a tile.

    Attributes
    ----------
    level : int
    coordinate : int
        Of the axis that the plane cuts, in voxels of the level.
    row, column : int
        Which tile of the plane.
    t : int or None
        None where the URL has none.
    filter_ids : tuple of int or None
    """

    level: int
    coordinate: int
    row: int
    column: int
    t: int | None = None
    filter_ids: tuple[int, ...] | None = None


def parse_tile(tail: str) -> TileParams:
    """The tail of a tile's URL, behind the plane and its slash; InvalidRequest if it is none."""
    match = _TILE.match(tail)
    if match is None:
        raise InvalidRequest(
            f"{tail[:200]!r} is no tile: [filter/ids/][t/]coordinate/row_column_level.png"
        )
    ids, t, *numbers = match.groups()
    coordinate, row, column, level = map(int, numbers)
    return TileParams(
        level,
        coordinate,
        row,
        column,
        timestep(t) if t is not None else None,
        filter_ids(ids) if ids is not None else None,
    )


def parse_viking(tail: str) -> TileParams:
    """The tail of a tile's URL as Viking asks for it; InvalidRequest if it is none."""
    match = _VIKING.match(tail)
    if match is None:
        raise InvalidRequest(f"{tail[:200]!r} is no tile: level/Xcolumn_Yrow_Zslice.png")
    level, column, row, z = map(int, match.groups())
    return TileParams(level, z, row, column)

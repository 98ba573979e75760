"""Pictures made of pictures: channels in colours, one layer over another, tiles (data plane 9).

Everything here takes and gives pixels; how voxels become pixels is in ``picture.py``.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ndcass.errors import InvalidRequest
from ndcass.picture import OPAQUE, Picture
from ndcass.tile import TILE_PIXELS, Tile

# A colour's letter -> the components (red, green, blue) that an intensity is added to. In this
# order the channels of a picture get their colours.
COLOURS = {"C": (1, 2), "M": (0, 2), "Y": (0, 1), "R": (0,), "G": (1,), "B": (2,)}
MAX_COLOURS = len(COLOURS)

# Pixels blended at a time: the forty bytes that each takes meanwhile stay in the cache.
BLOCK_PIXELS = 1 << 13


def colours_of(letters: Sequence[str | None]) -> tuple[str, ...]:
    """The colour of each channel: the one that was asked for, else that of its place.

    Raises
    ------
    InvalidRequest
        If there are more channels than colours, or a letter is no colour.
    """
    if len(letters) > MAX_COLOURS:
        raise InvalidRequest(f"{len(letters)} channels: at most {MAX_COLOURS} have a colour each")
    for letter in letters:
        if letter is not None and letter not in COLOURS:
            raise InvalidRequest(
                f"colour {letter[:20]!r} is unknown; known are {', '.join(COLOURS)}"
            )
    return tuple(letter or default for letter, default in zip(letters, COLOURS, strict=False))


def mixed(intensities: Sequence[Picture], colours: Sequence[str]) -> Picture:
    """Channels of one shape drawn in a colour each, as RGBA.

    Parameters
    ----------
    intensities : sequence of ndarray of uint8, shape (h, w)
    colours : sequence of str
        Letters of `COLOURS`, one a channel.

    Returns
    -------
    ndarray of uint8, shape (h, w, 4)
        Sums are cut off at 255. Transparent black where all is dark, else opaque.
    """
    height, width = intensities[0].shape
    # Room for the sum of all channels.
    sums = np.zeros((3, height, width), dtype=np.uint16)
    for intensity, colour in zip(intensities, colours, strict=True):
        for component in COLOURS[colour]:
            sums[component] += intensity
    out = np.zeros((height, width, 4), dtype=np.uint8)
    for component in range(3):
        np.minimum(sums[component], 255, out=out[..., component], casting="unsafe")
    out[..., 3] = np.where(sums.any(axis=0), OPAQUE, 0)
    return out


def as_rgba(picture: Picture) -> Picture:
    """A picture with four components; grey is opaque."""
    if picture.ndim == 3:
        return picture
    out = np.empty((*picture.shape, 4), dtype=np.uint8)
    out[..., :3] = picture[..., np.newaxis]
    out[..., 3] = OPAQUE
    return out


def blended(first: Picture, second: Picture, alpha: float) -> Picture:
    """One picture over another, and `alpha` of that over the second again.

    Parameters
    ----------
    first, second : ndarray of uint8, shape (h, w) or (h, w, 4)
    alpha : float
        From 0, which shows the second alone, to 1.

    Returns
    -------
    ndarray of uint8, shape (h, w, 4)
        ``second + alpha * (composite - second)`` of each component, cut off, where the composite is
        `first` over `second` by the opacity of `first`.

    Raises
    ------
    InvalidRequest
        If the pictures differ in size.

    Notes
    -----
    With integers and in single precision, as Pillow's ``composite`` and ``blend`` do, so that
    the fractions are cut off at the same places.
    """
    if first.shape[:2] != second.shape[:2]:
        sizes = " and ".join(f"{p.shape[1]}x{p.shape[0]}" for p in (first, second))
        raise InvalidRequest(
            f"the layers have {sizes} pixels: only equal ones can be laid together"
        )
    height, width = first.shape[:2]
    out = np.empty((height, width, 4), dtype=np.uint8)
    step = max(1, BLOCK_PIXELS // width)
    for row in range(0, height, step):
        rows = slice(row, row + step)
        out[rows] = _blended(as_rgba(first[rows]), as_rgba(second[rows]), np.float32(alpha))
    return out


def _blended(over: Picture, under: Picture, alpha: np.float32) -> npt.NDArray[np.float32]:
    opacity = over[..., 3:].astype(np.uint16)
    # At most 255 * 255 + 128, and a 256th of it more: sixteen bits are enough.
    scaled = over * opacity + under * (OPAQUE - opacity) + np.uint16(128)
    composite = ((scaled >> 8) + scaled) >> 8
    out: npt.NDArray[np.float32] = composite.astype(np.float32)
    out -= under
    out *= alpha
    out += under
    return out


def on_tile(picture: Picture, tile: Tile) -> Picture:
    """A picture of the tile's box, laid where it belongs on a blank tile.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w) or (h, w, 4)
    tile : Tile

    Returns
    -------
    ndarray of uint8, shape (512, 512) or (512, 512, 4)
    """
    if tile.rows is None and picture.shape[:2] == (TILE_PIXELS, TILE_PIXELS):
        return picture
    out = np.zeros((TILE_PIXELS, TILE_PIXELS, *picture.shape[2:]), dtype=np.uint8)
    columns = slice(tile.left, tile.left + picture.shape[1])
    if tile.rows is None:
        out[tile.top : tile.top + picture.shape[0], columns] = picture
    else:
        out[: len(tile.rows), columns] = picture[list(tile.rows)]
    return out

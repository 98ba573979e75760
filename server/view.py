"""What the slice browser shows, from the query of its URL to the paths of a picture and a box.

A view is a plane (xy, xz or yz) around a centre, at a level and a timestep. Coordinates are those
of data requests at that level, offset included. ``static/console.js`` moves about inside one level
and plane by the same rules; what changes level or plane is a link that comes back here.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self
from urllib.parse import urlencode

import numpy as np

from ndcass.errors import InvalidRequest, TooLarge
from ndcass.geometry import Box, Level, Zyx, text_xyz
from ndcass.histogram import Histogram
from ndcass.model import PROPAGATED, Channel, Dataset, TokenView
from ndcass.picture import check_window
from ndcass.server.formats.jpeg import check_jpeg
from ndcass.server.volume_params import window_bounds

# Width and height of the largest picture, in pixels.
VIEW_PIXELS = (768, 576)
# Of flat slices many would fit below each other, but each is read from another cuboid.
MOST_SLICES = 1024
# A channel without a window shows all that its type can hold; floats are mostly shares.
FLOAT_WINDOW = ("0", "1")
MOST_INTENSITY = (1 << 32) - 1
# Of a channel with a histogram, all but the darkest and the brightest voxels.
SHOWN_PERCENTS = (1, 99)

# What a box of voxels can be read as.
FORMATS = ("npz", "raw", "zip", "blosc", "hdf5", "jpeg", "tiff")
# Plane -> axes across, down and cut, as places in z, y, x.
AXES = {"xy": (2, 1, 0), "xz": (2, 0, 1), "yz": (1, 0, 2)}
_NAMES = "zyx"
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]{1,19}(?:\.[0-9]{0,19})?")

Window = tuple[str, str]


@dataclass(frozen=True, slots=True)
class View:
    """One picture of a channel, and what is around it.

    Attributes
    ----------
    token : str
    channel : Channel
    level : Level
    plane : str
    centre_zyx : tuple of int
        A voxel of the level.
    t : int
    window : pair of str or None
        Bounds of the intensities as the URL has them; None leaves that to the channel.
    """

    token: str
    channel: Channel
    level: Level
    plane: str
    centre_zyx: Zyx
    t: int
    window: Window | None = None

    @classmethod
    def from_query(
        cls,
        view: TokenView,
        channel: Channel,
        query: Mapping[str, str],
        *,
        window: Window | None = None,
    ) -> Self:
        """What a query asks for; where it says nothing, the middle of the volume and `window`.

        Coordinates are moved into the volume, since a level is left with those of another: `from`
        names the level that they are of.

        Raises
        ------
        InvalidRequest
            If a value makes no sense.
        """
        plane = query.get("plane", "xy")
        if plane not in AXES:
            raise InvalidRequest(f"plane={plane[:40]}: known are {', '.join(AXES)}")
        level = view.level(_integer(query, "level", overview_level(view.dataset, channel).level))
        source = view.level(_integer(query, "from", level.level))
        z, y, x = (
            _coordinate(query, axis, source=source, target=level) for axis in range(len(_NAMES))
        )
        start, stop = channel.time_range
        t = min(max(_integer(query, "t", start), start), stop - 1)
        return cls(
            view.token.token_name,
            channel,
            level,
            plane,
            (z, y, x),
            t,
            _window(query, channel) or window,
        )

    # -- what it shows

    @property
    def extents_zyx(self) -> Zyx:
        """How many voxels a picture shows at most, an axis."""
        across, down, _ = AXES[self.plane]
        most = [1, 1, 1]
        most[across], most[down] = VIEW_PIXELS[0], int(VIEW_PIXELS[1] / self.aspect)
        most[down] = max(1, min(most[down], MOST_SLICES))
        size = self.level.size_zyx
        return (min(most[0], size[0]), min(most[1], size[1]), min(most[2], size[2]))

    @property
    def aspect(self) -> float:
        """How many pixels high a voxel is drawn."""
        if self.plane == "xy":
            return 1.0
        return self.level.xz_aspect if self.plane == "xz" else self.level.yz_aspect

    @property
    def box(self) -> Box:
        """The voxels of the picture."""
        legal, extents = self.level.dataset_box(), self.extents_zyx
        starts = [
            min(max(centre - extent // 2, low), high - extent)
            for centre, extent, low, high in zip(
                self.centre_zyx, extents, legal.start_zyx, legal.stop_zyx, strict=True
            )
        ]
        z, y, x = starts
        return Box((z, y, x), (z + extents[0], y + extents[1], x + extents[2]))

    @property
    def cut(self) -> str:
        """The axis that the plane cuts."""
        return _NAMES[AXES[self.plane][2]]

    @property
    def is_series(self) -> bool:
        start, stop = self.channel.time_range
        return stop - start > 1

    # -- where that is

    @property
    def picture_path(self) -> str:
        """The picture as a slice."""
        box = self.box
        (z0, y0, x0), (z1, y1, x1) = box.start_zyx, box.stop_zyx
        numbers = {
            "xy": f"{x0},{x1}/{y0},{y1}/{z0}",
            "xz": f"{x0},{x1}/{y0}/{z0},{z1}",
            "yz": f"{x0}/{y0},{y1}/{z0},{z1}",
        }[self.plane]
        time = f"{self.t}/" if self.is_series else ""
        window = f"window/{self.window[0]},{self.window[1]}/" if self.window else ""
        return f"{self._base}/{self.plane}/{self.level.level}/{numbers}/{time}{window}"

    def box_path(self, service: str) -> str:
        """The voxels of the picture in one of the formats."""
        time = f"{self.t},{self.t + 1}/" if self.is_series else ""
        return f"{self._base}/{service}/{self.level.level}/{text_xyz(self.box)}/{time}"

    def fits(self, service: str) -> bool:
        """Whether one of the `FORMATS` can hold the picture's box: some know not every type."""
        if service == "tiff":
            return not self.is_series
        if service == "jpeg":
            depth, height, width = self.box.shape_zyx
            with contextlib.suppress(InvalidRequest, TooLarge):
                check_jpeg(depth * height, width, self.channel.dtype)
                return True
            return False
        return True

    @property
    def _base(self) -> str:
        return f"/nd/sd/{self.token}/{self.channel.name}"

    def link(self, **changes: str | int) -> str:
        """The page at this view, or at one that is changed a little."""
        z, y, x = self.centre_zyx
        query: dict[str, str | int] = {"plane": self.plane, "level": self.level.level}
        query |= {"x": x, "y": y, "z": z}
        if self.is_series:
            query["t"] = self.t
        if self.window:
            query |= {"low": self.window[0], "high": self.window[1]}
        if changes.get("level", self.level.level) != self.level.level:
            query["from"] = self.level.level
        return f"?{urlencode(query | changes)}"

    def moved(self, *, across: int = 0, down: int = 0, cut: int = 0) -> "View":
        """The view after so many steps: quarters of a picture, and slices."""
        extents, legal = self.extents_zyx, self.level.dataset_box()
        centre = list(self.centre_zyx)
        for axis, steps, is_cut in zip(
            AXES[self.plane], (across, down, cut), (False, False, True), strict=True
        ):
            step = steps if is_cut else steps * max(1, extents[axis] // 4)
            last = legal.stop_zyx[axis] - 1
            centre[axis] = min(max(centre[axis] + step, legal.start_zyx[axis]), last)
        return replace(self, centre_zyx=(centre[0], centre[1], centre[2]))


def has_window(channel: Channel) -> bool:
    """Whether a window makes a picture of a channel better: not of labels and of colours."""
    return not channel.is_annotation and channel.channel_datatype != "uint32"


def default_window(channel: Channel, histogram: Histogram | None = None) -> Window | None:
    """Bounds for a channel that has none of its own: from its histogram, else from its type.

    None where the channel has a window, and where bytes are pixels as they are.
    """
    if not has_window(channel) or channel.endwindow or channel.channel_datatype == "uint8":
        return None
    if histogram is not None:
        low, high = (int(histogram.percentile(Fraction(share))) for share in SHOWN_PERCENTS)
        if low < high:
            return str(max(0, low - 1)), str(high)
    if channel.dtype.kind == "f":
        return FLOAT_WINDOW
    return "0", str(min(int(np.iinfo(channel.dtype).max), MOST_INTENSITY))


def overview_level(dataset: Dataset, channel: Channel) -> Level:
    """The finest level of a built pyramid whose planes fit into a picture, else the base."""
    base = min(channel.resolution, dataset.scalinglevels)
    if channel.propagate != PROPAGATED:  # nothing is stored above
        return dataset.level(base)
    across, down = VIEW_PIXELS
    for number in range(base, dataset.scalinglevels):
        _, y, x = dataset.level(number).size_zyx
        if x <= across and y <= down:
            return dataset.level(number)
    return dataset.level(dataset.scalinglevels)


def _coordinate(query: Mapping[str, str], axis: int, *, source: Level, target: Level) -> int:
    """A coordinate of the centre, at the level that is shown and inside it."""
    low, high = target.box.start_zyx[axis], target.box.stop_zyx[axis]
    name = _NAMES[axis]
    if not query.get(name):
        return (low + high - 1) // 2
    asked = _integer(query, name, 0)
    if source.level != target.level:
        inside = asked - source.offset_zyx[axis]
        scale = target.size_zyx[axis] / source.size_zyx[axis]
        asked = int((inside + 0.5) * scale) + low
    return min(max(asked, low), high - 1)


def _integer(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not _INTEGER.fullmatch(text):
        raise InvalidRequest(f"{name}={text[:40]} is no whole number")
    return int(text)


def _window(query: Mapping[str, str], channel: Channel) -> Window | None:
    low, high = query.get("low", ""), query.get("high", "")
    if not low and not high:
        return None
    for name, text in (("low", low), ("high", high)):
        if not _NUMBER.fullmatch(text):
            raise InvalidRequest(f"{name}={text[:40]} is no number; a window has both of them")
    check_window(*window_bounds((low, high), channel.channel_datatype), dtype=channel.dtype)
    return low, high

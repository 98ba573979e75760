"""A picture that was asked for, as data: which voxels it shows and how; and drawing it.

Slices, projections, channels in false colour and tiles differ in no more than the fields of a
`Drawing`. It can be compared, and it says which cuboids it depends on.
"""

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass import composite, picture, resample
from ndcass.concurrency import bounded_map
from ndcass.errors import InvalidRequest
from ndcass.geometry import Box, Level
from ndcass.picture import Picture, Range
from ndcass.place import Place
from ndcass.projection import BLOCK_BYTES, project
from ndcass.store.base import CuboidAddress, CuboidStore
from ndcass.tile import TILE_PIXELS, Tile
from ndcass.volume import Usage, read_box

# The axis that a plane cuts, in arrays of order z, y, x.
AXES = {"xy": 0, "xz": 1, "yz": 2}
RGBA_BYTES = 4
# Counts up when the same voxels come to look different: names of pictures then change.
APPEARANCE = 1

Voxels = npt.NDArray[Any]  # which type is only known at run time


class Style(enum.Enum):
    """How voxels become pixels; where the channel's own window applies."""

    SLICE = enum.auto()  # labels in colour; the window not for bytes
    INTENSITY = enum.auto()  # everything in grey; the window not for bytes
    WINDOWED = enum.auto()  # everything in grey; the window for every type


class Extreme(enum.Enum):
    """Which voxel a projection takes."""

    LEAST = enum.auto()
    GREATEST = enum.auto()


@dataclass(frozen=True, slots=True)
class Layer:
    """What a picture shows of one channel.

    Attributes
    ----------
    plane : str
        xy, xz or yz.
    place : Place
    t : int
    box : Box
        Stored box; one voxel thick on the axis that the plane cuts, unless it is projected.
    style : Style
        Of slices; projections have labels in colour and the window for every type.
    extreme : Extreme or None
        Which projection; None is a slice.
    window : pair of float or None
        The window that was asked for, instead of the channel's; makes a grey picture of any type.
    keep_ids : tuple of int or None
        The only labels that are not made background.
    shown_as : int or None
        The label whose colour all of them have: a neuron shows its segments as itself.
    """

    plane: str
    place: Place
    t: int
    box: Box
    style: Style = Style.SLICE
    extreme: Extreme | None = None
    window: Range | None = None
    keep_ids: tuple[int, ...] | None = None
    shown_as: int | None = None

    def __post_init__(self) -> None:
        channel = self.place.channel
        if self.keep_ids is not None and not channel.is_annotation:
            raise InvalidRequest("filter works on annotation channels only")
        if self.window is not None:
            picture.check_window(*self.window, dtype=channel.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the plane in voxels."""
        depth, height, width = self.box.shape_zyx
        return {"xy": (height, width), "xz": (depth, width), "yz": (depth, height)}[self.plane]

    @property
    def identity(self) -> tuple[object, ...]:
        """All that shapes its pixels, but what is stored."""
        place, channel = self.place, self.place.channel
        return (
            self.plane,
            place.address(self.t, 0),
            place.level,
            place.source,
            (channel.channel_type, channel.channel_datatype),
            (channel.startwindow, channel.endwindow),
            self.box,
            self.style.name,
            self.extreme and self.extreme.name,
            self.window,
            self.keep_ids,
            *(() if self.shown_as is None else (self.shown_as,)),
        )

    @property
    def cuboid_count(self) -> int:
        """How many cuboids it is made of, stored or not."""
        source, box = self.place.source, self.box
        if source is not None and not source.is_coarser:
            return resample.cuboids_under(box, source)
        if source is not None:
            box = resample.coarse_box(box, source)
        sizes = self.place.cuboid_zyx
        return math.prod(
            -(-stop // size) - start // size
            for start, stop, size in zip(box.start_zyx, box.stop_zyx, sizes, strict=True)
        )

    @property
    def read_bytes(self) -> int:
        """All voxels that it looks at."""
        return self.box.voxels * self.place.channel.dtype.itemsize

    async def read(
        self, store: CuboidStore, *, usage: Usage, on_block: Callable[[], None]
    ) -> Voxels:
        """The plane of voxels, filtered; projections also windowed if a window was asked for."""
        axis = AXES[self.plane]
        if self.extreme is None:
            voxels = await read_box(store, self.place, self.t, self.box, usage=usage)
            flat: Voxels = voxels.take(0, axis=axis)
            return flat
        return await project(
            store,
            self.place,
            self.t,
            self.box,
            axis=axis,
            greatest=self.extreme is Extreme.GREATEST,
            prepare=self._before_projection,
            usage=usage,
            on_block=on_block,
        )

    def _before_projection(self, voxels: Voxels) -> Voxels:
        """What a cut-out with the same arguments would hold."""
        voxels = self._filtered(voxels)
        return voxels if self.window is None else picture.window(voxels, *self.window)

    def _filtered(self, voxels: Voxels) -> Voxels:
        if self.keep_ids is not None:
            voxels = picture.keep_only(voxels, self.keep_ids)
        if self.shown_as is not None:
            label = voxels.dtype.type(self.shown_as)
            voxels = np.where(voxels != 0, label, voxels.dtype.type(0))
        return voxels

    def pixels(self, plane: Voxels) -> Picture:
        """The pixels of the plane that was read; holds a core, so it belongs in `run_cpu`."""
        channel = self.place.channel
        own = (channel.startwindow, channel.endwindow)
        if self.extreme is not None:
            return picture.projection_picture(
                plane,
                channel.channel_type,
                channel_window=own,
                is_windowed=self.window is not None,
            )
        plane = self._filtered(plane)
        if self.style is Style.SLICE:
            return picture.slice_picture(
                plane, channel.channel_type, channel_window=own, explicit_window=self.window
            )
        return picture.grey(
            plane,
            channel_window=own,
            explicit_window=self.window,
            bytes_too=self.style is Style.WINDOWED,
        )


@dataclass(frozen=True, slots=True)
class Drawing:
    """A whole picture.

    Attributes
    ----------
    layers : tuple of Layer
        Of one shape. More than one only with `colours`.
    colours : tuple of str or None
        A letter a layer: they are mixed. None shows the one layer as it is.
    height : int or None
        What the rows are stretched to; None leaves them.
    tile : Tile or None
        Where the pixels lie on a tile; None is no tile.
    """

    layers: tuple[Layer, ...]
    colours: tuple[str, ...] | None = None
    height: int | None = None
    tile: Tile | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.tile is not None:
            return TILE_PIXELS, TILE_PIXELS
        height, width = self.layers[0].shape
        return self.height or height, width

    @property
    def plane_bytes(self) -> int:
        """The most that a plane of voxels or of pixels takes in memory."""
        height, width = self.shape
        most = max(RGBA_BYTES, *(layer.place.channel.dtype.itemsize for layer in self.layers))
        rows, columns = self.layers[0].shape
        return most * max(height * width, rows * columns)

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal ones of two pictures mean equal pixels, if equal voxels are stored.

        As `repr` gives it, it may be a name that outlives the process.
        """
        layers = tuple(layer.identity for layer in self.layers)
        return (APPEARANCE, layers, self.colours, self.height, self.tile)

    @property
    def cuboid_count(self) -> int:
        """How many cuboids it is made of, stored or not."""
        return sum(layer.cuboid_count for layer in self.layers)

    def cuboids(self) -> list[CuboidAddress]:
        """The cuboids that it is made of, stored or not."""
        return [
            address
            for layer in self.layers
            for address in layer.place.addresses(layer.t, layer.box)
        ]

    @property
    def memory_bytes(self) -> int:
        """About what drawing it takes."""
        blocks = 3 * BLOCK_BYTES if any(layer.extreme for layer in self.layers) else 0
        return (2 + len(self.layers)) * self.plane_bytes + blocks

    async def read(
        self, store: CuboidStore, *, usage: Usage, on_block: Callable[[], None]
    ) -> Sequence[Voxels]:
        """The planes of voxels, one a layer."""
        if len(self.layers) == 1:
            return [await self.layers[0].read(store, usage=usage, on_block=on_block)]
        return await bounded_map(
            lambda layer: layer.read(store, usage=usage, on_block=on_block),
            self.layers,
            limit=len(self.layers),
        )

    def pixels(self, planes: Sequence[Voxels]) -> Picture:
        """The picture of the planes that were read; holds a core, so it belongs in `run_cpu`."""
        drawn = [layer.pixels(plane) for layer, plane in zip(self.layers, planes, strict=True)]
        shown = drawn[0] if self.colours is None else composite.mixed(drawn, self.colours)
        if self.tile is not None:
            return composite.on_tile(shown, self.tile)
        if self.height is not None and self.height != shown.shape[0]:
            return picture.stretch(shown, self.height)
        return np.ascontiguousarray(shown)


def stretched_height(plane: str, level: Level, box: Box) -> int | None:
    """The height of a slice in pixels; None where a row is a voxel (data plane 4.3)."""
    if plane == "xy":
        return None
    aspect = level.xz_aspect if plane == "xz" else level.yz_aspect
    return picture.stretched_height(box.shape_zyx[0], aspect)

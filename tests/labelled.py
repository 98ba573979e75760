"""Annotation channels for tests, and what they have to hold, computed on whole volumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.geometry import Box, Zyx
from ndcass.merge import EMPTY, Cuboid, WriteOp, apply
from ndcass.model import Channel, Dataset, Project, Token, TokenView
from ndcass.store.base import Stores

# No multiple of a cuboid's shape on any axis.
SIZE_ZYX = (40, 200, 300)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Volume:
    """A channel and what leads to it."""

    stores: Stores
    view: TokenView
    channel: Channel

    @property
    def target(self) -> tuple[Stores, TokenView, Channel]:
        return self.stores, self.view, self.channel


async def annotated(stores: Stores, *, dataset: Any = None, **fields: Any) -> Volume:
    """A project with one annotation channel; `fields` are its own, `dataset` its dataset's."""
    z, y, x = SIZE_ZYX
    size = {"ximagesize": x, "yimagesize": y, "zimagesize": z, "scalinglevels": 2}
    await stores.catalog.create_dataset(
        Dataset(dataset_name="d", user=1, **{**size, "zvoxelres": 10.0, **(dataset or {})})
    )
    await stores.catalog.create_project(Project(project_name="p", user=1, dataset="d"))
    await stores.catalog.create_token(Token(token_name="t", project="p", user=1))
    defaults = {"channel_type": "annotation", "channel_datatype": "uint32"}
    channel = await stores.catalog.create_channel(
        Channel(id=0, project="p", channel_name="anno", **{**defaults, **fields})
    )
    return Volume(stores, await stores.catalog.token_view("t"), channel)


class Model:
    """A level as one large cuboid, to which every write is applied in turn."""

    def __init__(self, shape_zyx: Zyx = SIZE_ZYX, dtype: str = "<u4") -> None:
        self.cuboid = Cuboid(np.zeros(shape_zyx, dtype=dtype), EMPTY)

    def write(self, op: WriteOp, label: int, mask: Mask) -> None:
        """Merge a label where `mask`, of the whole level, is true."""
        voxels = mask * self.cuboid.voxels.dtype.type(label)
        self.cuboid = apply(self.cuboid, op, (0, 0, 0), voxels)

    def paint(self, op: WriteOp, box: Box, voxels: npt.NDArray[Any]) -> None:
        """Merge the voxels of a box."""
        self.cuboid = apply(self.cuboid, op, box.start_zyx, voxels)

    def mask(self, labels: Sequence[int]) -> Mask:
        """Where one of some labels is, exceptions included."""
        mask: Mask = np.isin(self.cuboid.voxels, labels)
        exceptions = self.cuboid.exceptions
        also = np.isin(exceptions.labels, np.array(labels, dtype=np.uint64))
        mask.reshape(-1)[exceptions.offsets[also]] = True
        return mask

    def labels(self, box: Box) -> list[int]:
        """All labels of a box, exceptions included."""
        exceptions = self.cuboid.exceptions
        inside = np.zeros(self.cuboid.voxels.shape, dtype=np.bool_)
        inside[box.slices()] = True
        also = exceptions.labels[inside.reshape(-1)[exceptions.offsets]]
        painted = self.cuboid.voxels[box.slices()].ravel()
        return sorted({*painted.tolist(), *also.tolist()} - {0})

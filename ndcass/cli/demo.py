"""The made-up volume of ``make run``: something to look at and to try requests on.

Cells as the regions nearest to scattered points, parted by dark membranes, with mitochondria and
the noise of a microscope. Everything follows from one seed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass.config import ServerSettings
from ndcass.errors import NotFound
from ndcass.geometry import Box, Zyx
from ndcass.merge import WriteOp
from ndcass.model import ANNOTATION, IMAGE, Channel, Dataset, Project, Token
from ndcass.place import Place
from ndcass.store.base import Stores
from ndcass.writer import write_box

NAME = "demo"
IMAGE_CHANNEL = "em"
LABEL_CHANNEL = "cells"

SHAPE_ZYX: Zyx = (64, 512, 512)
VOXEL_NM_ZYX = (40.0, 4.0, 4.0)
SEED = 20_111

# One point in each block of so many voxels, somewhere in its middle.
SPACING_ZYX: Zyx = (13, 128, 128)
JITTER = 0.8
# Distances are computed for one voxel of 2 x 2 in a section, as they change slowly.
COARSE = 2
MEMBRANE_NM = 16.0
MITOCHONDRIA = 90

CYTOPLASM, MEMBRANE, MITOCHONDRION = 165.0, 60.0, 105.0
CELL_SPREAD = 14.0
NOISE = 13.0

Floats = npt.NDArray[np.float32]


async def ensure_demo(stores: Stores) -> bool:
    """Put the demo volume into an empty store; False if the store is not empty."""
    catalog = stores.catalog
    if await catalog.datasets():
        return False
    owner = (await catalog.users())[0].id
    z, y, x = SHAPE_ZYX
    res_z, res_y, res_x = VOXEL_NM_ZYX
    dataset = Dataset(
        dataset_name=NAME,
        dataset_description="made-up cells, voxels of 4 x 4 x 40 nm",
        user=owner,
        public=1,
        ximagesize=x,
        yimagesize=y,
        zimagesize=z,
        xvoxelres=res_x,
        yvoxelres=res_y,
        zvoxelres=res_z,
    )
    image, labels = make_volume(SEED)
    await catalog.create_dataset(dataset)
    await catalog.create_project(
        Project(project_name=NAME, user=owner, dataset=NAME, public=1, kvengine="Embedded")
    )
    for channel_name, kind, voxels in (
        (IMAGE_CHANNEL, IMAGE, image),
        (LABEL_CHANNEL, ANNOTATION, labels),
    ):
        channel = await catalog.create_channel(
            Channel(
                id=0,  # the catalog gives one
                project=NAME,
                channel_name=channel_name,
                channel_type=kind,
                channel_datatype=voxels.dtype.name,
                default=kind == IMAGE,
            )
        )
        place = Place(channel, dataset.level(0))
        box = Box((0, 0, 0), SHAPE_ZYX)
        await write_box(stores, place, channel.starttime, box, voxels, op=WriteOp.REPLACE)
    # The name that clients use comes last: nobody finds half a volume.
    await catalog.create_token(Token(token_name=NAME, user=owner, project=NAME, public=1))
    return True


async def what_to_open(stores: Stores, server: ServerSettings) -> Sequence[str]:
    """What to try on the demo volume, if the store has it and the port is known."""
    if server.port == 0:
        return ()
    try:
        await stores.catalog.token(NAME)
    except NotFound:
        return ()
    base = f"http://{server.host}:{server.port}"
    z, y, x = SHAPE_ZYX
    return (
        f"everything here   {base}/",
        f"look through it   {base}/view/{NAME}/{IMAGE_CHANNEL}/",
        f"a section         {base}/nd/sd/{NAME}/{IMAGE_CHANNEL}/xy/0/0,{x}/0,{y}/{z // 2}/",
        f"cut across        {base}/nd/sd/{NAME}/{IMAGE_CHANNEL}/xz/0/0,{x}/{y // 2}/0,{z}/",
        f"its cells         {base}/nd/sd/{NAME}/{LABEL_CHANNEL}/xy/0/0,{x}/0,{y}/{z // 2}/",
    )


def make_volume(
    seed: int, shape_zyx: Zyx = SHAPE_ZYX
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """An image and the labels of its cells, which count from 1.

    Parameters
    ----------
    seed : int
    shape_zyx : tuple of int
        Even in y and x.
    """
    rng = np.random.default_rng(seed)
    points_nm = _points(rng, shape_zyx)
    labels, gap_nm = _nearest(points_nm, shape_zyx)
    brightness = rng.normal(CYTOPLASM, CELL_SPREAD, len(points_nm) + 1).astype(np.float32)
    image = brightness[labels]
    _add_mitochondria(image, rng)
    # 0 on a membrane, 1 away from it.
    inside = np.clip(_finer(gap_nm) / np.float32(MEMBRANE_NM) - np.float32(0.5), 0, 1)
    image -= (1 - inside) * (image - np.float32(MEMBRANE))
    image += np.float32(NOISE) * rng.standard_normal(shape_zyx, dtype=np.float32)
    return np.clip(image, 1, 255).astype(np.uint8), labels


def _points(rng: np.random.Generator, shape_zyx: Zyx) -> Floats:
    """One point a block, in nm, columns z, y, x; the blocks reach over the edges by one."""
    blocks = [-(-size // spacing) + 2 for size, spacing in zip(shape_zyx, SPACING_ZYX, strict=True)]
    corners = np.stack(np.meshgrid(*map(np.arange, blocks), indexing="ij"), axis=-1).reshape(-1, 3)
    shift = 0.5 + JITTER * (rng.random(corners.shape) - 0.5)
    voxels = (corners - 1 + shift) * np.array(SPACING_ZYX)
    points: Floats = (voxels * np.array(VOXEL_NM_ZYX)).astype(np.float32)
    return points


def _nearest(points_nm: Floats, shape_zyx: Zyx) -> tuple[npt.NDArray[np.uint32], Floats]:
    """Of every voxel: which point is nearest, and (coarsely) how much farther the second is."""
    depth, height, width = shape_zyx
    rows, columns = height // COARSE, width // COARSE
    res_z, res_y, res_x = VOXEL_NM_ZYX
    y_nm = ((np.arange(rows) + 0.5) * COARSE * res_y).astype(np.float32)
    x_nm = ((np.arange(columns) + 0.5) * COARSE * res_x).astype(np.float32)
    reach_nm = 1.6 * SPACING_ZYX[0] * res_z
    labels = np.zeros(shape_zyx, dtype=np.uint32)
    gap_nm = np.empty((depth, rows, columns), dtype=np.float32)
    for z in range(depth):
        z_nm = (z + 0.5) * res_z
        near = np.flatnonzero(np.abs(points_nm[:, 0] - z_nm) < reach_nm)
        best = np.full((rows, columns), np.inf, dtype=np.float32)
        second = best.copy()
        label = np.zeros((rows, columns), dtype=np.uint32)
        for number in near:
            point = points_nm[number]
            square = (y_nm - point[1])[:, None] ** 2 + (x_nm - point[2]) ** 2
            square += (z_nm - point[0]) ** 2
            np.minimum(second, np.maximum(best, square), out=second)
            closer = square < best
            label[closer] = number + 1
            np.minimum(best, square, out=best)
        labels[z] = label.repeat(COARSE, axis=0).repeat(COARSE, axis=1)
        gap_nm[z] = np.sqrt(second) - np.sqrt(best)
    return labels, gap_nm


def _finer(coarse: Floats) -> Floats:
    """Coarse sections at full size, smoothed over the seams."""
    fine = coarse.repeat(COARSE, axis=1).repeat(COARSE, axis=2)
    for axis in (1, 2):
        before, after = np.roll(fine, 1, axis), np.roll(fine, -1, axis)
        fine = (before + 2 * fine + after) / np.float32(4)
    return fine


def _add_mitochondria(image: Floats, rng: np.random.Generator) -> None:
    """Darken some ellipsoids, each in the window around it."""
    size = np.array(image.shape)
    for _ in range(MITOCHONDRIA):
        radius_nm = rng.uniform(60, 130)
        radius = radius_nm / np.array(VOXEL_NM_ZYX) * rng.uniform(0.8, 1.4, 3)
        centre = rng.uniform(0, size)
        start = np.clip(np.floor(centre - radius), 0, size).astype(int)
        stop = np.clip(np.ceil(centre + radius) + 1, 0, size).astype(int)
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        axes = np.ogrid[window]
        square: Any = sum(
            ((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)
        )
        np.copyto(image[window], np.float32(MITOCHONDRION), where=square < 1)

"""``ndcass cutout``: a box of a channel into a file."""

import argparse
import contextlib
import math
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ndcass.cli import arguments
from ndcass.cli.boxes import plan_bands
from ndcass.cli.client import Gateway, Volume, access_from
from ndcass.cli.failure import CommandFailed, WrongCall
from ndcass.cli.report import Progress, print_result
from ndcass.concurrency import run_threads
from ndcass.geometry import Box, text_xyz

MIB = 1 << 20


# Makes a file that is written to like an array of a shape, and is closed in the end.
Maker = Callable[[Path, Volume, tuple[int, ...]], contextlib.AbstractContextManager[Any]]


class Piece(NamedTuple):
    """A box of one timestep; None is the channel's start time."""

    t: int | None
    box: Box


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = groups.add_parser(
        "cutout",
        help="write a box of a channel into a file",
        description="Write a box of a channel into a .npy, .tif or .h5 file (by the name of FILE), "
        "with axes z, y, x, or t, z, y, x if --time is given.",
    )
    parser.add_argument("target", metavar="TOKEN/CHANNEL", type=arguments.target)
    parser.add_argument(
        "--box",
        required=True,
        type=arguments.box,
        metavar="X0,X1/Y0,Y1/Z0,Z1",
        help="half open, in dataset coordinates of the level",
    )
    parser.add_argument("--time", type=arguments.span, metavar="T0,T1", help="timesteps, half open")
    parser.add_argument("--level", type=arguments.at_least(0), default=0, metavar="N")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE")
    arguments.add_server(parser)
    arguments.add_transfer(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    make = MAKERS.get(args.output.suffix.lower())
    if make is None:
        raise WrongCall(f"{args.output} must end in one of {', '.join(MAKERS)}")
    with Gateway(access_from(args.url, os.environ)) as gateway:
        result = _save(args, make, gateway)
    print_result(
        args, result, f"{args.output}: {result['dtype']} of shape {tuple(result['shape'])}"
    )
    return 0


def _save(args: argparse.Namespace, make: Maker, gateway: Gateway) -> dict[str, Any]:
    """Fetch the box into the file; what was done, JSON-able."""
    volume = gateway.volume(args.target, args.level)
    if not volume.extent.contains(args.box):
        raise CommandFailed(
            f"box {text_xyz(args.box)} reaches beyond {text_xyz(volume.extent)}, the extent of "
            f"level {volume.level} of {volume.target}"
        )
    time = (args.time[1] - args.time[0],) if args.time else ()
    shape = (*time, *args.box.shape_zyx)
    size = math.prod(shape) * volume.dtype.itemsize
    with (
        _replaced(args.output, size) as temporary,
        make(temporary, volume, shape) as array,
        Progress(str(volume.target), size, quiet=args.quiet) as progress,
    ):
        _fill(array, args, gateway, volume, progress)
    return {
        "file": str(args.output),
        "target": str(args.target),
        "box": text_xyz(args.box),
        "times": args.time,
        "shape": shape,
        "dtype": volume.dtype.name,
    }


def _fill(
    array: Any,  # a memmap or an h5py.Dataset
    args: argparse.Namespace,
    gateway: Gateway,
    volume: Volume,
    progress: Progress,
) -> None:
    """Fill an array of shape ([t,] z, y, x), box by box."""
    z, y, x = args.box.start_zyx

    def fetch(piece: Piece) -> None:
        voxels = gateway.read_box(volume, piece.box, piece.t)
        where = piece.box.shifted((-z, -y, -x)).slices()
        array[where if piece.t is None else (piece.t - args.time[0], *where)] = voxels
        progress.add(voxels.nbytes)

    bands = plan_bands(
        args.box,
        origin_zyx=volume.extent.start_zyx,
        cuboid_zyx=volume.cuboid_zyx,
        itemsize=volume.dtype.itemsize,
        box_bytes=args.box_mib * MIB,
    )
    boxes = [box for band in bands for box in band.boxes]
    times = range(*args.time) if args.time else [None]
    pieces = (Piece(t, box) for t in times for box in boxes)
    run_threads(fetch, pieces, limit=args.parallel, stop=threading.Event())


@contextlib.contextmanager
def _replaced(path: Path, size: int) -> Iterator[Path]:
    """A temporary name beside `path`, that takes its place in the end or is removed."""
    if not path.parent.is_dir():
        raise CommandFailed(f"there is no folder {path.parent}")
    if shutil.disk_usage(path.parent).free < size:
        raise CommandFailed(f"{path} would take {size} bytes, more than there is space for")
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# -- files that are arrays


@contextlib.contextmanager
def _npy(path: Path, volume: Volume, shape: tuple[int, ...]) -> Iterator[Any]:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=volume.dtype, shape=shape)
    _reserve(path)
    yield array
    array.flush()


@contextlib.contextmanager
def _tiff(path: Path, volume: Volume, shape: tuple[int, ...]) -> Iterator[Any]:
    import tifffile

    array = tifffile.memmap(
        path,
        shape=shape,
        dtype=volume.dtype,
        photometric="minisblack",
        metadata={"axes": "TZYX"[-len(shape) :]},
    )
    _reserve(path)
    yield array
    array.flush()


@contextlib.contextmanager
def _hdf5(path: Path, volume: Volume, shape: tuple[int, ...]) -> Iterator[Any]:
    import h5py

    with h5py.File(path, "w") as file:
        # Where the server puts it in its own HDF5 answers.
        yield file.create_dataset(f"{volume.target.channel}/CUTOUT", shape, volume.dtype)


def _reserve(path: Path) -> None:
    """Give a file its blocks: on a full disk, writing to a mapped hole kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


MAKERS: dict[str, Maker] = {
    ".npy": _npy,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}

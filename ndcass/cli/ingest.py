"""``ndcass ingest``: files into a channel, over HTTP, resumable, with a receipt."""

import argparse
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import crc32c
import numpy as np
import numpy.typing as npt

from ndcass.cli import arguments, receipt
from ndcass.cli.boxes import Band, plan_bands
from ndcass.cli.client import Gateway, Volume, access_from
from ndcass.cli.failure import CommandFailed
from ndcass.cli.receipt import BoxDone, Destination, Origin, Receipt, ReceiptWriter
from ndcass.cli.report import Progress, print_result
from ndcass.cli.sources import KNOWN, Source, open_source
from ndcass.concurrency import run_threads
from ndcass.geometry import Box, Zyx, text_xyz

OPERATIONS = ("merge", "replace", "preserve")
MIB = 1 << 20

Voxels = npt.NDArray[Any]  # which type is only known at run time


class Place(NamedTuple):
    """Where a source goes: its box in dataset coordinates and its timesteps.

    The timestep None is the channel's start time, not named in any request.
    """

    box: Box
    times: tuple[int | None, ...]


class Piece(NamedTuple):
    """A box on its way."""

    t: int | None
    box: Box
    voxels: Voxels


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = groups.add_parser(
        "ingest",
        help="write files into a channel",
        description=f"Write a volume from files into a channel. SOURCE is {KNOWN}. Sections are "
        "taken in natural order (2 before 10). A receipt lists every box with its checksum.",
    )
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("target", metavar="TOKEN/CHANNEL", type=arguments.target)
    arguments.add_server(parser)
    parser.add_argument(
        "--offset",
        metavar="X,Y,Z",
        type=arguments.corner,
        help="where the first voxel goes, in dataset coordinates (default: the dataset's offset)",
    )
    parser.add_argument(
        "--level",
        type=arguments.at_least(0),
        metavar="N",
        help="the resolution level (default: the channel's base, the only one to be written "
        "unless it is propagated)",
    )
    parser.add_argument(
        "--time",
        type=arguments.at_least(0),
        metavar="T",
        help="the timestep of the first volume (default: the channel's start time)",
    )
    parser.add_argument("--dataset", metavar="PATH", help="the array inside an HDF5 file")
    parser.add_argument(
        "--write",
        choices=OPERATIONS,
        default="merge",
        help="merge: zeros leave alone what is stored; replace: zeros too; preserve: only where "
        "zeros are stored (default: %(default)s)",
    )
    parser.add_argument(
        "--widen",
        action="store_true",
        help="convert to the channel's type where that changes no value (uint8 to uint32)",
    )
    parser.add_argument(
        "--receipt",
        type=Path,
        metavar="FILE",
        help="default: TOKEN-CHANNEL.receipt.json in the current folder",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where the receipt says that it stopped"
    )
    arguments.add_transfer(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    stop = threading.Event()
    path = args.receipt or Path(f"{args.target.token}-{args.target.channel}.receipt.json")
    with (
        Gateway(access_from(args.url, os.environ), sleep=_until(stop)) as gateway,
        open_source(args.source, dataset=args.dataset) as source,
    ):
        volume = gateway.volume(args.target, args.level)
        place = place_of(source, volume, corner_zyx=args.offset, time=args.time, widen=args.widen)
        fresh = _new_receipt(source, volume, place, gateway.access.url, args)
        paper = _earlier(path, fresh) if args.resume else _first(path, fresh)
        if not paper.is_complete:
            _transfer(args, gateway, source, volume, place, ReceiptWriter(path, paper), stop)
    print_result(args, {**paper.summary(), "receipt": str(path)}, _text(paper, path))
    return 0


def place_of(
    source: Source, volume: Volume, *, corner_zyx: Zyx | None, time: int | None, widen: bool
) -> Place:
    """Where a source goes, if it can.

    Raises
    ------
    CommandFailed
        If the channel is read-only or of another type, or the volume reaches beyond the dataset.
    """
    if volume.readonly:
        raise CommandFailed(f"channel {volume.target} is read-only")
    if source.dtype != volume.dtype:
        fits = np.can_cast(source.dtype, volume.dtype, "safe")
        if not (widen and fits):
            hint = "; --widen converts it without changing a value" if fits else ""
            raise CommandFailed(
                f"{source.name} is {source.dtype.name}, channel {volume.target} is "
                f"{volume.dtype.name}{hint}"
            )
    corner = corner_zyx or volume.extent.start_zyx
    _, z, y, x = source.shape
    box = Box((0, 0, 0), (z, y, x)).shifted(corner)
    if not volume.extent.contains(box):
        raise CommandFailed(
            f"{source.name} is {source.shape}; placed at {text_xyz(box)} it reaches beyond "
            f"{text_xyz(volume.extent)}, the extent of level {volume.level}"
        )
    if source.shape.t == 1 and time is None:
        return Place(box, (None,))
    first = volume.starttime if time is None else time
    return Place(box, tuple(range(first, first + source.shape.t)))


def _new_receipt(
    source: Source, volume: Volume, place: Place, url: str, args: argparse.Namespace
) -> Receipt:
    box_bytes = args.box_mib * MIB
    bands = _bands(volume, place, box_bytes)
    return Receipt(
        origin=Origin(
            source=source.name,
            fingerprint=source.fingerprint,
            shape_tzyx=list(source.shape),
            dtype=source.dtype.name,
        ),
        destination=Destination(
            url=url,
            token=volume.target.token,
            channel=volume.target.channel,
            channel_id=volume.identity,
            level=volume.level,
            dtype=volume.dtype.name,
            box=text_xyz(place.box),
            times=None if place.times == (None,) else [t for t in place.times if t is not None],
            write=args.write,
        ),
        box_bytes=box_bytes,
        boxes_total=len(place.times) * sum(len(band.boxes) for band in bands),
        started=receipt.now(),
    )


def _bands(volume: Volume, place: Place, box_bytes: int) -> Iterator[Band]:
    return plan_bands(
        place.box,
        origin_zyx=volume.extent.start_zyx,
        cuboid_zyx=volume.cuboid_zyx,
        itemsize=volume.dtype.itemsize,
        box_bytes=box_bytes,
    )


def _first(path: Path, fresh: Receipt) -> Receipt:
    """A new receipt; an unfinished one of before is not lost by mistake."""
    if path.exists() and not receipt.load(path).is_complete:
        raise CommandFailed(
            f"{path} is of an ingest that did not end: go on with --resume, choose another with "
            "--receipt, or remove it"
        )
    return fresh


def _earlier(path: Path, fresh: Receipt) -> Receipt:
    """The receipt to go on with; CommandFailed if it is of something else."""
    if not path.exists():
        return fresh
    earlier = receipt.load(path)
    for what, before, now in (
        ("the source", earlier.origin, fresh.origin),
        ("the target", earlier.destination, fresh.destination),
    ):
        for field in type(before).__dataclass_fields__:
            was, is_now = getattr(before, field), getattr(now, field)
            if was != is_now:
                said = f"{was} then, {is_now} now" if field != "fingerprint" else "changed files"
                raise CommandFailed(f"cannot resume {path}: {what} differs in {field} ({said})")
    return earlier


def _transfer(
    args: argparse.Namespace,
    gateway: Gateway,
    source: Source,
    volume: Volume,
    place: Place,
    writer: ReceiptWriter,
    stop: threading.Event,
) -> None:
    paper = writer.receipt
    done = {box.key for box in paper.boxes}
    noting = threading.Lock()
    total = place.box.voxels * len(place.times) * volume.dtype.itemsize
    with Progress(str(volume.target), total, quiet=args.quiet) as progress:

        def send(piece: Piece) -> None:
            voxels = np.ascontiguousarray(piece.voxels, dtype=volume.dtype)
            gateway.write_box(volume, piece.box, piece.t, voxels, op=args.write)
            entry = box_done(piece.t, piece.box, voxels)
            with noting:
                writer.add(entry)
            progress.add(voxels.nbytes)

        def pieces() -> Iterator[Piece]:
            for number, t in enumerate(place.times):
                for band in _bands(volume, place, paper.box_bytes):
                    todo = [box for box in band.boxes if (t, text_xyz(box)) not in done]
                    missing = sum(box.voxels for box in todo)
                    progress.skip((band.box.voxels - missing) * volume.dtype.itemsize)
                    if todo:
                        voxels = _read(source, number, band.box, place.box.start_zyx)
                        back = _negative(band.box.start_zyx)
                        yield from (
                            Piece(t, box, voxels[box.shifted(back).slices()]) for box in todo
                        )

        writer.flush()
        try:
            run_threads(send, pieces(), limit=args.parallel, stop=stop)
            writer.finish()
        finally:
            writer.flush()


def box_done(t: int | None, box: Box, voxels: Voxels) -> BoxDone:
    """The entry of a receipt for the voxels of a box, little-endian and in C order."""
    return BoxDone(
        t=t,
        box=text_xyz(box),
        crc32c=f"{crc32c.crc32c(voxels.data.cast('B')):08x}",
        voxels=voxels.size,
        nonzero=int(np.count_nonzero(voxels)),
    )


def _read(source: Source, number: int, box: Box, corner_zyx: Zyx) -> Voxels:
    """The voxels of a band, by its box in dataset coordinates."""
    inner = box.shifted(_negative(corner_zyx))
    (z0, y0, _), (z1, y1, _) = inner.start_zyx, inner.stop_zyx
    voxels = source.reader.read(number, range(z0, z1), range(y0, y1))
    if voxels.shape != box.shape_zyx:
        raise CommandFailed(f"{source.name} gave {voxels.shape} voxels instead of {box.shape_zyx}")
    return voxels


def _negative(zyx: Zyx) -> Zyx:
    z, y, x = zyx
    return (-z, -y, -x)


def _until(stop: threading.Event) -> Callable[[float], None]:
    """How to wait between two tries: no longer than until `stop`."""

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise CommandFailed("gave up, since another box failed")

    return sleep


def _text(paper: Receipt, path: Path) -> str:
    return (
        f"{paper.origin.source} -> {paper.destination.token}/{paper.destination.channel} "
        f"{paper.destination.box}: {len(paper.boxes)} boxes, {paper.voxels} voxels, "
        f"{paper.nonzero} of them not zero, crc32c {paper.crc32c}; receipt {path}"
    )

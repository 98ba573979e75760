"""The receipt of an ingest: what was sent where, box by box, with checksums.

A JSON file that is replaced as a whole, so that it is never half written. It is what an interrupted
ingest goes on from, and what `verify` compares the stored voxels with.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import crc32c

from ndcass.cli import arguments
from ndcass.cli.failure import CommandFailed
from ndcass.geometry import Box

FORMAT = "ndcass receipt"
VERSION = 1
# Writing the receipt may take this share of the time: it grows with the volume, boxes do not.
WRITING_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the voxels came from."""

    source: str
    fingerprint: str
    shape_tzyx: list[int]
    dtype: str


@dataclass(frozen=True, slots=True)
class Destination:
    """Where they went. `box` and `times` are what the volume covers there, in dataset coordinates.

    Without `times` it is the channel's start time. `channel_id` is None if it could not be seen.
    """

    url: str
    token: str
    channel: str
    channel_id: int | None
    level: int
    dtype: str
    box: str
    times: list[int] | None
    write: str


@dataclass(frozen=True, slots=True)
class BoxDone:
    """A box that the server acknowledged. The checksum is of its voxels, C order, little-endian."""

    t: int | None
    box: str
    crc32c: str
    voxels: int
    nonzero: int

    @property
    def key(self) -> tuple[int | None, str]:
        return (self.t, self.box)

    def as_box(self) -> Box:
        """The box, in dataset coordinates."""
        return arguments.box(self.box)


@dataclass(slots=True)
class Receipt:
    """A receipt that grows; `boxes_total` is how many boxes the whole takes."""

    origin: Origin
    destination: Destination
    box_bytes: int
    boxes_total: int
    started: str
    finished: str | None = None
    boxes: list[BoxDone] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return self.finished is not None

    @property
    def voxels(self) -> int:
        return sum(box.voxels for box in self.boxes)

    @property
    def nonzero(self) -> int:
        return sum(box.nonzero for box in self.boxes)

    @property
    def crc32c(self) -> str:
        """Checksum of the boxes' checksums (4 bytes each, big-endian), by time and place."""
        ordered = sorted(self.boxes, key=lambda done: (done.t or 0, done.as_box().start_zyx))
        return f"{crc32c.crc32c(b''.join(bytes.fromhex(done.crc32c) for done in ordered)):08x}"

    def summary(self) -> dict[str, Any]:
        """What a user wants to know, JSON-able."""
        return {
            "source": self.origin.source,
            "target": f"{self.destination.token}/{self.destination.channel}",
            "box": self.destination.box,
            "times": self.destination.times,
            "boxes": len(self.boxes),
            "boxes_total": self.boxes_total,
            "voxels": self.voxels,
            "nonzero": self.nonzero,
            "crc32c": self.crc32c,
        }

    def to_json(self) -> dict[str, Any]:
        """The whole of it, JSON-able."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "started": self.started,
            "finished": self.finished,
            "origin": asdict(self.origin),
            "destination": asdict(self.destination),
            "box_bytes": self.box_bytes,
            "boxes_total": self.boxes_total,
            "voxels": self.voxels,
            "nonzero": self.nonzero,
            "crc32c": self.crc32c,
            "boxes": [asdict(box) for box in self.boxes],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is no receipt.
        """
        if found["format"] != FORMAT:
            raise ValueError("it is none")
        if found["version"] != VERSION:
            raise ValueError(f"it has version {found['version']}, this ndcass reads {VERSION}")
        receipt = cls(
            origin=Origin(**found["origin"]),
            destination=Destination(**found["destination"]),
            box_bytes=int(found["box_bytes"]),
            boxes_total=int(found["boxes_total"]),
            started=str(found["started"]),
            finished=found["finished"],
            boxes=[BoxDone(**box) for box in found["boxes"]],
        )
        if receipt.crc32c != found["crc32c"]:
            raise ValueError("its checksums do not fit together")
        return receipt


def now() -> str:
    """The time of day as receipts have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def load(path: Path) -> Receipt:
    """Read a receipt.

    Raises
    ------
    CommandFailed
        If there is none, or it is damaged.
    """
    try:
        return Receipt.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise CommandFailed(f"cannot read receipt {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, argparse.ArgumentTypeError) as error:
        raise CommandFailed(f"{path} is no receipt that can be read: {error}") from error


def save(path: Path, receipt: Receipt) -> None:
    """Put a receipt in the place of the one before, all or nothing."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(receipt.to_json(), file, indent=1)
            file.write("\n")
        os.chmod(temporary, 0o644)  # mkstemp keeps it to its owner
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class ReceiptWriter:
    """Saves a receipt as boxes are done: after each one, while that costs next to nothing."""

    def __init__(self, path: Path, receipt: Receipt) -> None:
        self.path = path
        self.receipt = receipt
        self._rest_until = 0.0
        self._unsaved = True

    def add(self, done: BoxDone) -> None:
        """Note a box."""
        self.receipt.boxes.append(done)
        self._unsaved = True
        if time.monotonic() >= self._rest_until:
            self.flush()

    def finish(self) -> None:
        """Note that all boxes are done."""
        self.receipt.finished = now()
        self._unsaved = True

    def flush(self) -> None:
        """Save what is not saved yet."""
        if not self._unsaved:
            return
        began = time.monotonic()
        save(self.path, self.receipt)
        ended = time.monotonic()
        self._rest_until = ended + (ended - began) / WRITING_SHARE
        self._unsaved = False

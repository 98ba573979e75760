import json
from pathlib import Path

import pytest

from ndcass.cli import receipt
from ndcass.cli.failure import CommandFailed
from ndcass.cli.receipt import BoxDone, Destination, Origin, Receipt, ReceiptWriter


def made() -> Receipt:
    return Receipt(
        origin=Origin("stack", "abc", [1, 2, 3, 4], "uint8"),
        destination=Destination("http://x", "T", "C", 7, 0, "uint8", "0,4/0,3/0,2", None, "merge"),
        box_bytes=1 << 20,
        boxes_total=2,
        started="2026-01-02T03:04:05+00:00",
    )


FIRST = BoxDone(None, "0,4/0,3/0,1", "0000000a", 12, 5)
SECOND = BoxDone(None, "0,4/0,3/1,2", "0000000b", 12, 7)


def test_receipt_reads_back_as_it_was_written(tmp_path: Path) -> None:
    paper = made()
    paper.boxes = [FIRST, SECOND]
    paper.finished = "2026-01-02T03:05:05+00:00"

    receipt.save(tmp_path / "r.json", paper)

    assert receipt.load(tmp_path / "r.json") == paper


def test_totals_add_the_boxes() -> None:
    paper = made()
    paper.boxes = [FIRST, SECOND]

    assert (paper.voxels, paper.nonzero) == (24, 12)


def test_total_checksum_does_not_depend_on_the_order_of_the_boxes() -> None:
    one, other = made(), made()
    one.boxes, other.boxes = [FIRST, SECOND], [SECOND, FIRST]

    assert one.crc32c == other.crc32c
    other.boxes = [FIRST, BoxDone(None, "0,4/0,3/1,2", "0000000c", 12, 7)]
    assert one.crc32c != other.crc32c


def test_writer_saves_each_box(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    writer = ReceiptWriter(path, made())

    writer.add(FIRST)

    assert receipt.load(path).boxes == [FIRST]


def test_writer_leaves_no_temporary_file(tmp_path: Path) -> None:
    writer = ReceiptWriter(tmp_path / "r.json", made())
    writer.add(FIRST)
    writer.flush()

    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_boxes_that_were_not_saved_at_once_are_saved_by_flush(tmp_path: Path) -> None:
    writer = ReceiptWriter(tmp_path / "r.json", made())
    for number in range(500):
        writer.add(BoxDone(number, "0,4/0,3/0,1", "0000000a", 12, 5))

    writer.flush()

    assert len(receipt.load(tmp_path / "r.json").boxes) == 500


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "other"}', "\x00"])
def test_other_files_are_no_receipts(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)

    with pytest.raises(CommandFailed, match="no receipt that can be read"):
        receipt.load(tmp_path / "r.json")


def test_receipt_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    receipt.save(tmp_path / "r.json", made())
    found = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps({**found, "version": 99}))

    with pytest.raises(CommandFailed, match="version 99"):
        receipt.load(tmp_path / "r.json")


def test_changed_checksum_is_noticed(tmp_path: Path) -> None:
    paper = made()
    paper.boxes = [FIRST]
    receipt.save(tmp_path / "r.json", paper)
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text.replace("0000000a", "0000000d"))

    with pytest.raises(CommandFailed, match="checksums do not fit"):
        receipt.load(tmp_path / "r.json")

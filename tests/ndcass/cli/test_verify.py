import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ndcass.cli import receipt
from tests.processes import Gateway, Outcome

Ndcass = Callable[..., Outcome]
NewChannel = Callable[..., str]


@pytest.fixture
def ingested(ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path) -> str:
    """A channel with a volume, whose receipt is r.json."""
    target = new_channel()
    volume = np.random.default_rng(1).integers(0, 255, (40, 200, 300), dtype=np.uint8)
    np.save(tmp_path / "v.npy", volume)
    line = ("ingest", "v.npy", target, "--receipt", "r.json", "--box-mib", "1")
    assert ndcass(*line).code == 0
    return target


@pytest.mark.usefixtures("ingested")
def test_what_was_sent_is_there(ndcass: Ndcass, tmp_path: Path) -> None:
    result = ndcass("verify", "r.json", "--json").result

    assert result == {"checked": len(receipt.load(tmp_path / "r.json").boxes), "wrong": []}


def test_changed_voxel_is_found(ndcass: Ndcass, ingested: str, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.full((1, 1, 1), 255, dtype=np.uint8))
    line = ("ingest", "one.npy", ingested, "--offset", "250,150,30", "--receipt", "one.json")
    assert ndcass(*line).code == 0

    outcome = ndcass("verify", "r.json")

    assert outcome.code == 1
    assert "1 of 6 boxes are wrong" in outcome.err
    assert "/17,33: crc32c" in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_is_wrong_is_in_the_json_too(ndcass: Ndcass, ingested: str, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.full((1, 1, 1), 255, dtype=np.uint8))
    ndcass("ingest", "one.npy", ingested, "--offset", "250,150,30", "--receipt", "one.json")

    outcome = ndcass("verify", "r.json", "--json")

    assert outcome.code == 1
    assert len(json.loads(outcome.out)["wrong"]) == 1


@pytest.mark.usefixtures("ingested")
def test_receipt_of_an_ingest_that_did_not_end_is_refused(ndcass: Ndcass, tmp_path: Path) -> None:
    paper = receipt.load(tmp_path / "r.json")
    paper.boxes, paper.finished = paper.boxes[:1], None
    receipt.save(tmp_path / "r.json", paper)

    outcome = ndcass("verify", "r.json")

    assert outcome.code == 1
    assert "1 of 6 boxes" in outcome.err


def test_stored_checksums_are_checked_while_a_server_runs(
    ndcass: Ndcass, ingested: str, server: Gateway
) -> None:
    result = ndcass("verify", ingested, "--data", server.folder, "--json").result

    # 300 x 200 x 40 voxels in cuboids of 128 x 128 x 16.
    assert result == {"checked": 3 * 2 * 3, "wrong": []}


def test_unknown_channel_is_an_error(ndcass: Ndcass, server: Gateway) -> None:
    outcome = ndcass("verify", "T/nothing", "--data", server.folder)

    assert outcome.code == 1
    assert "no channel nothing" in outcome.err


def test_channel_without_a_folder_is_a_wrong_call(ndcass: Ndcass) -> None:
    outcome = ndcass("verify", "T/c")

    assert outcome.code == 2
    assert "--data" in outcome.err


def test_missing_receipt_is_an_error(ndcass: Ndcass) -> None:
    outcome = ndcass("verify", "none.json")

    assert outcome.code == 1
    assert "none.json" in outcome.err

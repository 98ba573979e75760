"""What the commands say; that they do it is tested with real nodes beside the store."""

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from ndcass.cli.fold import statement
from ndcass.cli.main import FAILED, main
from ndcass.store.embedded import open_embedded
from ndcass.store.folding import Amount, Whereabouts

WHERE = Whereabouts(
    has_tiers=True,
    unfolded=Amount(1, 2, 3 << 20),
    foldable_from_s=1.0,
    folded=Amount(40, 40, 10 << 20),
    to_sweep=Amount(5, 12, 1 << 19),
    sweep_from_s=time.mktime((2100, 1, 1, 10, 20, 30, 0, 0, -1)),
)


def test_a_statement_says_what_is_in_which_tier_and_what_can_be_done_when() -> None:
    assert statement("p/c", WHERE).splitlines() == [
        "p/c:",
        "  in ingest, not drained yet:  1 cuboids, 2 rows, 3.0 MiB; can be drained now",
        "  in the archive:              40 cuboids, 40 rows, 10.0 MiB",
        "  drained, still to be swept:  5 cuboids, 12 rows, 0.5 MiB; can be swept from 10:20:30 on",
    ]


def test_with_one_tier_it_speaks_of_folding() -> None:
    where = dataclasses.replace(WHERE, has_tiers=False, foldable_from_s=0.0, unfolded=Amount())
    assert statement("p/c", where).splitlines()[1:3] == [
        "  writes not folded:           0 cuboids, 0 rows, 0.0 MiB",
        "  folded:                      40 cuboids, 40 rows, 10.0 MiB",
    ]


def test_a_store_that_merges_at_once_has_nothing_to_drain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def make() -> None:
        await (await open_embedded(tmp_path / "data")).close()

    asyncio.run(make())
    conf = tmp_path / "conf.yaml"
    conf.write_text(f"store: {{folder: {tmp_path / 'data'}}}\n")
    assert main(["drain", "--all", "--conf", str(conf)]) == FAILED
    assert "nothing to fold or to drain" in capsys.readouterr().err

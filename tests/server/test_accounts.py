"""Entries of requests on their way into the metrics and the log."""

import sys

import pytest

from ndcass.server.accounts import Accounts, Entry
from ndcass.server.metrics import Metrics


def an_entry(path: str = "/x") -> Entry:
    return Entry(0.0, "id", "/x", "raw", "GET", path, "200", 0.0015, 3, 4, 5, 6, 0.1, 0.2, 0.3)


class Full:
    """A standard error on a full disk."""

    def write(self, _: str) -> None:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        pass


async def test_an_entry_is_counted_and_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics()
    accounts = Accounts(metrics, log_lines=True)
    accounts.note(an_entry())
    accounts.settle()
    await accounts.write()
    await accounts.write()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert " id GET /x 200 1.5ms in=3 out=4 cuboids=11 " in lines[0]
    assert "ndcass_cuboids_read_total 5\n" in metrics.render({})


async def test_paths_cannot_forge_lines(capsys: pytest.CaptureFixture[str]) -> None:
    accounts = Accounts(Metrics(), log_lines=True)
    accounts.note(an_entry("/a\nforged"))
    await accounts.write()
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_a_log_that_cannot_be_written_stops_nothing_and_is_told_of_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = Accounts(Metrics(), log_lines=True)
    real = sys.stderr
    monkeypatch.setattr(sys, "stderr", Full())
    accounts.note(an_entry())
    await accounts.write()
    monkeypatch.setattr(sys, "stderr", real)
    await accounts.write()
    assert "1 lines were lost" in capsys.readouterr().err

import re

import pytest

from ndcass.cli.main import build_parser, main

COMMANDS = ["serve", "ingest", "cutout", "verify", "user", "cluster", "nodetool"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    assert ended.value.code == 0
    assert f"usage: ndcass {command}" in capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert re.fullmatch(r"ndcass \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["unknown"],
        ["ingest"],
        ["ingest", "file", "no-target"],
        ["user"],
        ["serve", "--po", "1"],
    ],
)
def test_wrong_call_is_exit_code_two(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line)

    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_no_command_takes_a_secret_as_an_argument() -> None:
    text = build_parser().format_help()
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            build_parser().parse_args([command, "--key", "x"])

    assert "--key" not in text


def test_failure_is_one_line_and_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["ingest", "/no/such/file.npy", "T/c"])

    assert code == 1
    assert capsys.readouterr().err == "ndcass: there is no /no/such/file.npy\n"


def test_interrupted_command_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ndcass.cli.ingest.open_source", interrupted)

    assert main(["ingest", "file.npy", "T/c"]) == 1
    assert capsys.readouterr().err == "ndcass: interrupted\n"

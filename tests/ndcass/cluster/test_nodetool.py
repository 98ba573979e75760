"""How ``nodetool`` is called, with a shell in the place of Java."""

import textwrap
from pathlib import Path

import pytest

from ndcass.cluster.distribution import Distribution
from ndcass.cluster.loader import cluster_from
from ndcass.cluster.nodetool import (
    MOST_AT_ONCE,
    ToolFailed,
    ask,
    ask_all,
    local_tool,
    machine_tool,
    pass_through,
    reason_in,
    views_from,
)
from ndcass.cluster.site import Site
from ndcass.errors import ClusterError, MissingTool

STATUS = """Datacenter: local
=================
Status=Up/Down
|/ State=Normal/Leaving/Joining/Moving
--  Address    Load        Tokens  Owns   Host ID  Rack
UN  127.0.9.1  309.35 KiB  4       33.3%  0a       rack1
DN  127.0.9.2  290.6 KiB   4       33.3%  0b       rack1
"""


def site_with(tmp_path: Path, script: str) -> Site:
    """Three nodes whose Java is a script; `$port` there is the node's."""
    java = tmp_path / "java"
    find_port = 'for last; do [ "$before" = -p ] && port=$last; before=$last; done\n'
    java.write_text(f"#!/bin/sh\n{find_port}{textwrap.dedent(script)}", encoding="utf-8")
    java.chmod(0o755)
    cluster = cluster_from(
        {
            "cluster": {"name": "c", "folder": str(tmp_path / "c")},
            "tiers": {"local": {"role": "archive", "nodes": [f"127.0.9.{n}" for n in (1, 2, 3)]}},
        }
    )
    distribution = Distribution(java, tmp_path, tmp_path / "agent.jar")
    said: list[str] = []
    return Site(cluster, distribution, {"PATH": "/usr/bin:/bin"}, said.append)


def test_command_is_quiet_and_leaves_the_home_folder_alone(tmp_path: Path) -> None:
    site = site_with(tmp_path, "")
    node = site.cluster.nodes[1]

    command = local_tool(site, node).command(["status", "-r"])

    assert f"-Duser.home={node.folder}" in command
    assert f"-Dlogback.configurationFile={node.folder}/conf/logback-tools.xml" in command
    assert command[-6:] == ["-h", "127.0.0.1", "-p", "7200", "status", "-r"]


def test_exit_code_is_passed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site = site_with(tmp_path, 'echo "$last at $port"; exit 3')
    tool = local_tool(site, site.cluster.nodes[0])

    assert pass_through(tool, ["info"], environ={}) == 3
    assert capfd.readouterr().out == "info at 7199\n"


def test_end_by_a_signal_is_said_as_a_shell_says_it(tmp_path: Path) -> None:
    site = site_with(tmp_path, "kill -9 $$")

    assert pass_through(local_tool(site, site.cluster.nodes[0]), ["info"], environ={}) == 137


def test_every_node_answers_for_itself(tmp_path: Path) -> None:
    site = site_with(tmp_path, "echo $port")

    answers = ask_all(site, site.cluster.nodes, "info")

    assert {node.name: said for node, said in answers.items()} == {
        "local1": "7199\n",
        "local2": "7200\n",
        "local3": "7201\n",
    }


def test_no_more_run_at_once_than_allowed(tmp_path: Path) -> None:
    site = site_with(
        tmp_path,
        f"""
        mkdir -p {tmp_path}/running; touch {tmp_path}/running/$$
        sleep 0.3; ls {tmp_path}/running | wc -l; rm {tmp_path}/running/$$
        """,
    )

    answers = ask_all(site, site.cluster.nodes, "info")

    assert all(1 <= int(said) <= MOST_AT_ONCE for said in answers.values())


def test_failure_names_node_command_and_reason(tmp_path: Path) -> None:
    site = site_with(tmp_path, "[ $port = 7200 ] || exit 0; echo 'error: no such thing'; exit 2")

    with pytest.raises(ToolFailed, match="nodetool flush at node local2: no such thing"):
        ask_all(site, site.cluster.nodes, "flush", "x")


def test_silent_success_is_an_answer(tmp_path: Path) -> None:
    site = site_with(tmp_path, "exit 0")

    assert ask(site, site.cluster.nodes[0], "drain") == ""


def test_command_that_hangs_is_ended(tmp_path: Path) -> None:
    site = site_with(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")

    with pytest.raises(ToolFailed, match="did not end within 1 s"):
        ask(site, site.cluster.nodes[0], "drain", timeout_s=1.0)

    pid = (tmp_path / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_views_leave_out_who_does_not_answer(tmp_path: Path) -> None:
    site = site_with(tmp_path, f"[ $port = 7200 ] && exit 1; cat <<'END'\n{STATUS}END\n")

    views = views_from(site, site.cluster.nodes)

    assert [node.name for node in views] == ["local1", "local3"]
    assert views[site.cluster.nodes[0]] == {"127.0.9.1": "UN", "127.0.9.2": "DN"}


def test_reason_is_told_without_the_stack() -> None:
    text = "error: Unable to find x\n-- StackTrace --\n\tat a.b(C.java:1)\n\tat d.e(F.java:2)\n"

    assert reason_in(text) == "Unable to find x"
    assert reason_in("nodetool: Found unexpected parameters: [y]\nSee 'nodetool help'.\n") == (
        "Found unexpected parameters: [y]"
    )
    assert reason_in("\n") == "it failed without a word"


def test_node_of_another_machine_takes_no_commands_here() -> None:
    cluster = cluster_from(
        {
            "cluster": {"name": "c"},
            # A network that is for documents: no machine has an address there.
            "tiers": {"far": {"role": "archive", "nodes": ["192.0.2.1"]}},
        }
    )

    with pytest.raises(ClusterError, match=r"another machine, 192\.0\.2\.1"):
        machine_tool(cluster, cluster.nodes[0])


def test_node_of_this_machine_needs_what_was_rendered(tmp_path: Path) -> None:
    cluster = cluster_from(
        {
            "cluster": {"name": "c", "folder": str(tmp_path / "c")},
            "machine": {"java": "/bin/sh", "jars": str(tmp_path), "files": str(tmp_path)},
            "tiers": {"near": {"role": "archive", "nodes": ["127.0.9.1"]}},
        }
    )

    with pytest.raises(MissingTool, match=r"logback-tools\.xml"):
        machine_tool(cluster, cluster.nodes[0])

    (tmp_path / "logback-tools.xml").touch()
    assert machine_tool(cluster, cluster.nodes[0]).logging == tmp_path / "logback-tools.xml"

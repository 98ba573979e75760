"""The recorded exchanges of the original service, played against a running gateway."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import KEY, gateway

# On a busy machine the nodes take minutes for it.
TIMEOUT_S = 900
WHOLE = (
    "info",
    "errors",
    "cutout-uint8",
    "slices",
    "cutout-time",
    "projections",
    "tiles",
    "overlay",
    "zoom",
    "neariso",
    "jpeg-tiff",
    "datatypes",
    "annotation-labels",
    "propagate-isotropic",
    "propagate-zslices",
    "nifti",
    "ramon-objects",
    "ramon-voxels",
    "pyramid-services",
)


@pytest.mark.parametrize(
    ("engine", "workers"),
    [
        ("embedded", 1),
        ("embedded", 2),
        pytest.param(
            "cassandra", 2, marks=[pytest.mark.cassandra, pytest.mark.timeout(TIMEOUT_S + 200)]
        ),
    ],
)
def test_the_recordings_of_this_release_play_whole(
    shared: Path, tmp_path: Path, conf_of: Callable[[str], Path | None], engine: str, workers: int
) -> None:
    command = [sys.executable, str(shared / "golden" / "replay.py")]
    with gateway(tmp_path / "data", conf=conf_of(engine), workers=workers) as running:
        command += [running.url, "--api-key", KEY]
        for name in WHOLE:
            command += ["--scenario", name]
        played = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    failed = [line for line in played.stdout.splitlines() if line.startswith(("FAIL", "SKIP"))]
    assert not failed, "\n".join(failed)
    summary = re.search(r"^(\d+) passed, (\d+) failed", played.stdout, re.MULTILINE)
    assert summary is not None, played.stdout + played.stderr
    assert int(summary[1]) > 150
    assert int(summary[2]) == 0

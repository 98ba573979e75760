"""Reading the recorded exchanges with the original service, which are no part of the project.

`shared` is the fixture of that name: the folder that holds ``golden/``.
"""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def scenario(shared: Path, name: str) -> dict[str, Any]:
    """One recorded scenario; `Any` is whatever its JSON holds."""
    found: dict[str, Any] = json.loads((shared / "golden" / name / "scenario.json").read_text())
    return found


def scenarios(shared: Path) -> list[str]:
    """The names of all scenarios."""
    return sorted(path.parent.name for path in (shared / "golden").glob("*/scenario.json"))


def recorded(shared: Path, name: str, file_name: str) -> bytes:
    """The bytes of a recorded body, unpacked where it is stored packed."""
    content = (shared / "golden" / name / file_name).read_bytes()
    return gzip.decompress(content) if file_name.endswith(".gz") else content


def recorded_array(shared: Path, name: str, file_name: str) -> Array:
    """A recorded ``.npy``."""
    array: Array = np.load(io.BytesIO(recorded(shared, name, file_name)), allow_pickle=False)
    return array

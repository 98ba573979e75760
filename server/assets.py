"""The files that pages load: style, script, icon; named with a digest, so that they can be kept."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    name: str
    content_type: str
    body: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()[:16]

    @property
    def path(self) -> str:
        """Where pages find it: another path whenever it is another file."""
        return f"/static/{self.name}?{self.digest}"


ASSETS = {
    path.name: Asset(path.name, _TYPES[path.suffix], path.read_bytes())
    for path in sorted(_FOLDER.iterdir())
    if path.suffix in _TYPES
}

"""A few bytes that all processes of a folder see, and that change whenever the catalogue does.

Asking SQLite whether its catalogue changed takes locks and system calls; looking at mapped memory
takes neither. Whoever changes the catalogue renews the token inside the transaction, so that
nothing read before is taken for current any more, and again when it is committed, so that what was
read meanwhile is not either. Values are random: none comes twice.
"""

import mmap
import os
from pathlib import Path
from typing import Self

_SIZE = 16


class ChangeToken:
    """The token of one folder. Safe from any thread."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the file, made if there is none. Blocks; raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _SIZE:
                os.pwrite(fd, os.urandom(_SIZE), 0)
            return cls(mmap.mmap(fd, _SIZE))
        finally:
            os.close(fd)

    def value(self) -> bytes:
        """The token of this moment."""
        return self._mapped[:_SIZE]

    def renew(self) -> None:
        """Give it a value that it never had."""
        self._mapped[:_SIZE] = os.urandom(_SIZE)

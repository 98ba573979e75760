"""Say whether this interpreter is new enough for ndcass; runs on any Python 3."""

import platform
import sys

OLDEST = (3, 11)  # as python_requires in setup.py

if sys.version_info < OLDEST:
    sys.stderr.write(
        "ndcass needs Python %d.%d or newer; %s is Python %s.\n"  # noqa: UP031 - old ones read it
        % (*OLDEST, sys.executable, platform.python_version())
    )
    sys.exit(1)

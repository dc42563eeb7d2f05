"""One process at a time on one file."""

from __future__ import annotations

import errno
import fcntl
import logging
from typing import TYPE_CHECKING

from atlas.errors import FetchError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF)
"""What file systems without locks say."""

_log = logging.getLogger(__name__)


def lock(file: IO[bytes], path: Path, doing: str) -> None:
    """Keep other processes off an open file until it is closed; the lock ends with the process too.

    Parameters
    ----------
    file, path
        Open file, and its name for messages.
    doing
        What the other process is at: "fetching".

    Raises
    ------
    FetchError
        If another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FetchError(f"{path}: another process is {doing} it; wait for it, or end it") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("%s: this file system has no locks; see to it that only one process is %s here", path, doing)

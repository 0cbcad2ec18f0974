"""Helpers for the file system: a lock that one process at a time holds, and replacement of whole files."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # what a file system without them says


class LockedError(Exception):
    """Another process holds the lock; the message says which."""


def expanded(path: str | Path) -> Path:
    """Returns a path with `~` as the home folder; if there is no such user, as it is, as the shell does."""
    return Path(os.path.expanduser(path))  # `Path.expanduser` raises RuntimeError there


@contextlib.contextmanager
def lock(file: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a lock on a file, which is created if necessary and is not deleted.

    If the file system has no locks, the function prints a line that says so, and goes on without a lock.

    Args:
        file: the file; its folder exists.
        waiting: called with the name of the process that has the lock before the wait; None means not to wait.

    Raises:
        LockedError: another process has the lock.
    """
    with file.open("a+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            opened.seek(0)
            holder = opened.read().strip() or "another process"
            if waiting is None:
                raise LockedError(holder) from error
            waiting(holder)
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{file.parent}: the file system has no locks: do not start another run there", file=sys.stderr)
        opened.truncate(0)
        opened.write(f"process {os.getpid()} on {socket.gethostname()}")
        opened.flush()
        yield


def replace_text(path: Path, text: str) -> None:
    """Replaces a file by a new one; if the machine stops, either the old or the new file is there, and complete.

    Bytes of file names that are not UTF-8, which Python reads as surrogates, are written as they were.
    """
    replace_bytes(path, text.encode(errors="surrogateescape"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Replaces a file as `replace_text` does."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)

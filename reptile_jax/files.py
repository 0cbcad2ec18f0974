"""What knows only the file system: a lock that one process at a time holds, and whole-file replacement."""

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


@contextlib.contextmanager
def lock(file: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a lock on a file, which is made where it is not there and stays.

    Where the file system has no locks, there is none, which is said in a line.

    Args:
        file: the file; its folder exists.
        waiting: called with the name of the process that has the lock, before it is waited for; None: do not wait.

    Raises:
        LockedError: another process has it.
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
            print(f"{file.parent}: the file system has no locks: start no other run there meanwhile", file=sys.stderr)
        opened.truncate(0)
        opened.write(f"process {os.getpid()} on {socket.gethostname()}")
        opened.flush()
        yield


def replace_text(path: Path, text: str) -> None:
    """Writes a whole file in place of another: whenever the machine stops, the one or the other is there, and whole."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)

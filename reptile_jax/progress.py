"""Shows progress as a bar on standard error, and lines above it."""

import contextlib
import sys

from tqdm import tqdm


class _WhileThere:
    """Standard error for a bar; a run goes on if it is closed or its disk is full."""

    @property
    def encoding(self) -> str | None:
        return sys.stderr.encoding

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


_STDERR = _WhileThere()


def say(line: str) -> None:
    """Prints a line on standard error, above the bars that are shown there."""
    tqdm.write(line, file=_STDERR)


def progress_bar(name: str, total: int, unit: str, done: int = 0, shown: bool = True) -> tqdm:
    """Returns a bar on standard error with the rate and the time left; if that is a file, it writes twice a minute."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=name,
        dynamic_ncols=True,
        mininterval=interval,
        miniters=1,
        disable=not shown,
        file=_STDERR,
    )

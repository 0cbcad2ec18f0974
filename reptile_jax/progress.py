"""Shows progress as a bar on standard error."""

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
        file=_WhileThere(),
    )

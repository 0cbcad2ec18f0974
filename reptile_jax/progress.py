"""The bar on the standard error that shows how far something is."""

import contextlib
import sys

from tqdm import tqdm


class _WhileThere:
    """The standard error for a bar: one that is closed, or on a full disk, ends no run."""

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
    """Returns a bar with rate and time left on the standard error; into a file it writes twice a minute."""
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

"""SIGTERM and Ctrl-C: the work at hand is finished and saved, and the program ends with the conventional status."""

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn


class Interrupted(Exception):
    """The run was asked to stop, and has saved what there was to save; the message is one line.

    Attributes:
        status: exit status, 128 and the signal's number.
    """

    def __init__(self, message: str, number: int) -> None:
        """Takes the message and the signal's number."""
        super().__init__(message)
        self.status = 128 + number


class Stop:
    """Whether a signal has asked the run to stop.

    Attributes:
        number: the signal's, 0 while none has come.
    """

    def __init__(self) -> None:
        """No signal has come yet."""
        self.number = 0

    def __bool__(self) -> bool:
        """True once a signal has come."""
        return self.number != 0

    def now(self, message: str) -> NoReturn:
        """Ends the run with the signal that has come."""
        raise Interrupted(message, self.number)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Watches for SIGTERM and SIGINT; a second signal ends the program at once."""
    stop, numbers = Stop(), (signal.SIGINT, signal.SIGTERM)

    def note(number: int, _: object) -> None:
        stop.number = number
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

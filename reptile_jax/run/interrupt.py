"""Handles SIGTERM, SIGHUP and Ctrl-C: the run finishes and saves its current work, then exits with the usual status."""

import contextlib
import signal
import threading
from collections.abc import Iterator

DISPATCH = 1.0  # seconds that the devices are given work for at a time, about; a signal waits for its end


def stop_signals() -> list[signal.Signals]:
    """Returns the signals that stop a run; SIGHUP, which a lost connection sends, only if nohup does not block it."""
    hangup = signal.SIGHUP
    ignored = signal.getsignal(hangup) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [hangup])]


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; the message is one line.

    Attributes:
        status: exit status, 128 and the signal's number.
    """

    def __init__(self, number: int, message: str) -> None:
        """Takes the signal's number and the message."""
        super().__init__(message)
        self.status = 128 + number


class Stop:
    """The signal that asked the run to stop.

    Attributes:
        number: the number of the signal; 0 as long as none has come.
    """

    number = 0


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Watches for the signals that stop a run; a second one ends the program at once.

    In a thread other than the main one, Python does not handle signals, so the function does nothing.
    """
    stop = Stop()
    numbers = stop_signals() if threading.current_thread() is threading.main_thread() else []

    def note(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if stop.number:  # by the other one
            signal.raise_signal(number)
        stop.number = number

    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

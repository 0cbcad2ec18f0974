"""Makes the empty figure of every picture."""

from typing import Any


def figure_of(width: float, height: float) -> Any:
    """Returns an empty figure; width and height are in inches."""
    from matplotlib.figure import Figure  # here, because it takes long to import and a run needs it when it has ended

    return Figure(figsize=(width, height), layout="constrained")

"""Where every picture begins."""

from typing import Any


def figure_of(width: float, height: float) -> Any:
    """Returns an empty figure of so many inches."""
    from matplotlib.figure import Figure  # here, because it takes long to import and a run needs it when it has ended

    return Figure(figsize=(width, height), layout="constrained")

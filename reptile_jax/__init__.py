"""Reptile meta-learning in JAX and Flax."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Learner", "__version__"]

if TYPE_CHECKING:
    from reptile_jax.predict.learner import Learner


def __getattr__(name: str) -> Any:
    """Imports `Learner` when it is asked for: what it needs takes seconds."""
    if name == "Learner":
        from reptile_jax.predict.learner import Learner

        return Learner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

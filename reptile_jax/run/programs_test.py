import jax
import pytest

from reptile_jax.devices import mesh_of, put
from reptile_jax.run.programs import initial_states, state_shapes
from reptile_jax.testing.small_runs import small


@pytest.fixture
def compilations():
    """Returns the number of compilations so far, as JAX counts them."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_initial_weights_are_compiled_once_for_all_seeds(compilations):
    counts = []
    for seeds in (1, 1, 5):  # the first also compiles what JAX keeps
        before = len(compilations)
        initial_states(small(num_seeds=seeds))
        counts.append(len(compilations) - before)
    assert counts[1] == counts[2] > 0


def test_the_shapes_of_a_state_are_known_without_computing_it(compilations):
    for fields in ({}, {"num_seeds": 2, "sgd": True}):
        config = small(**fields)
        before = len(compilations)
        shapes = state_shapes(config, mesh_of(config))
        assert len(compilations) == before
        states = put(mesh_of(config), initial_states(config))
        assert jax.tree.structure(shapes) == jax.tree.structure(states)
        for shape, x in zip(jax.tree.leaves(shapes), jax.tree.leaves(states), strict=True):
            assert (shape.shape, shape.dtype, shape.sharding) == (x.shape, x.dtype, x.sharding)

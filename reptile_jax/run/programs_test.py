import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reptile_jax.config import ConfigError
from reptile_jax.devices import mesh_of, put
from reptile_jax.networks import NETWORKS
from reptile_jax.run import pretrained, weights_file
from reptile_jax.run.programs import (
    curve_program,
    eval_program,
    initial_state,
    initial_states,
    sample_meta_batch,
    state_shapes,
    train_program,
)
from reptile_jax.run.train import train_and_evaluate
from reptile_jax.tasks import kind_of
from reptile_jax.testing.small_runs import small


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


def test_another_run_of_a_process_compiles_no_program_again(tmp_path, compilations):
    counts = []
    for name, fields in (("first", {}), ("again", {}), ("other", {"inner_iters": 5})):
        before = len(compilations)
        train_and_evaluate(small(meta_iters=7, eval_shots=(1,), **fields), tmp_path / name)
        counts.append(len(compilations) - before)
    assert counts[1] + 3 == counts[2] <= counts[0]  # training, curves and evaluation


@pytest.mark.parametrize(("make", "shots"), [(train_program, ()), (curve_program, ()), (eval_program, (1,))])
def test_a_changed_config_or_network_is_another_program(make, shots, monkeypatch):
    config, rest = small(), (mesh_of(small()), *shots)
    first = make(config, *rest)
    config.learning_rate = 0.5
    other = make(config, *rest)
    assert make(small(), *rest) is first and make(config, *rest) is other is not first
    monkeypatch.setitem(NETWORKS, "omniglot", WithoutDense)
    assert make(small(), *rest) is not first


class WithoutDense(nn.Module):
    classes: int
    filters: int
    convolution: str

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes, name="head")(x.reshape(len(x), -1))


def test_a_zero_head_needs_a_layer_named_dense(monkeypatch, tmp_path):
    monkeypatch.setitem(NETWORKS, "omniglot", WithoutDense)
    plain, zeroed = small(), small(zero_head=True)
    state = initial_state(plain, plain.seed)
    assert set(state.params["params"]) == {"head"}
    weights_file.save(tmp_path / "weights.safetensors", state, plain)
    message = "^zero_head=True needs a layer named dense, which the network omniglot lacks: give False$"
    with pytest.raises(ConfigError, match=message):
        initial_states(zeroed)
    with pytest.raises(ConfigError, match=message):
        pretrained.load_for(zeroed, pretrained.find(tmp_path / "weights.safetensors"), mesh_of(zeroed))


def test_a_zero_head_and_balanced_mini_batches_reach_the_programs():
    for fast in (True, False):
        config = small(zero_head=fast, balanced=fast, inner_batch=6)  # two of each class
        mesh = mesh_of(config, jax.devices()[:1])
        head = initial_states(config).params["params"]["dense"]
        assert any(np.any(x) for x in jax.tree.leaves(head)) != fast
        data = kind_of(config).load(config, mesh)
        source = data.source[0], jax.tree.map(lambda x: x[0], data.source[1])
        tasks = sample_meta_batch(config, 0, 0, source, data.pools["train"], jnp.arange(8))
        evaluated = [
            kind_of(config).sample_eval(config, 2, jax.random.key(i), source, data.pools["test"]) for i in range(8)
        ]
        assert bool(np.all(np.sort(tasks.batches.labels) == [0, 0, 1, 1, 2, 2])) == fast
        assert all(bool(np.all(np.sort(task.batches.labels) == [0, 1, 2])) for task in evaluated) == fast

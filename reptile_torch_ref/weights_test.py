"""Tests that the weights file is exact in both directions, and its layouts."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reptile_torch_ref import reptile, weights


def random_state(dtype: torch.dtype, sgd: bool) -> reptile.State:
    """Returns a state of random numbers, so that two arrays cannot be confused."""
    torch.manual_seed(0)
    state = reptile.init_state(5, 0, sgd, dtype)
    params, second_moment = ({n: torch.rand_like(w) for n, w in part.items()} for part in state[:2])
    return reptile.State(params, second_moment, 0 if sgd else 1234)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sgd", [False, True])
def test_round_trip_is_exact(tmp_path: Path, dtype: torch.dtype, sgd: bool) -> None:
    state = random_state(dtype, sgd)
    path = str(tmp_path / "state.safetensors")
    weights.save(path, state)
    loaded = weights.load(path)
    assert loaded.step_count == state.step_count
    for before, after in zip(state[:2], loaded[:2], strict=True):
        assert before.keys() == after.keys()
        for name in before:
            assert after[name].dtype == dtype
            assert torch.equal(before[name], after[name])


def test_names_and_layouts_of_the_file(tmp_path: Path) -> None:
    state = random_state(torch.float32, sgd=False)
    path = str(tmp_path / "state.safetensors")
    weights.save(path, state)
    tensors = load_file(path)
    shapes = {f"conv_{i}/kernel": (3, 3, 64 if i else 1, 64) for i in range(4)}
    shapes |= {f"norm_{i}/{name}": (64,) for i in range(4) for name in ("scale", "bias")}
    shapes |= {"dense/kernel": (256, 5), "dense/bias": (5,)}
    want = {f"{part}/{name}": shape for part in ("params", "second_moment") for name, shape in shapes.items()}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == want | {"count": ()}
    assert tensors["count"].dtype == torch.int32
    assert tensors["count"].item() == 1234
    # Height 2, width 1, input channel 3, output channel 5.
    assert tensors["params/conv_1/kernel"][2, 1, 3, 5] == state.params["conv_1/kernel"][5, 3, 2, 1]
    assert tensors["second_moment/dense/kernel"][200, 4] == state.second_moment["dense/kernel"][4, 200]


def test_without_adam_the_file_has_no_second_moment(tmp_path: Path) -> None:
    path = str(tmp_path / "state.safetensors")
    weights.save(path, random_state(torch.float32, sgd=True))
    assert not [name for name in load_file(path) if name.startswith("second_moment")]

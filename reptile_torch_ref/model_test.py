"""Compares the networks with their definition in NumPy."""

import numpy as np
import pytest
import torch

from reptile_torch_ref import model


def random_weights(seed: int, classes: int = 5) -> model.Weights:
    """Returns float64 weights in which scale, shift and bias matter, too."""
    generator = torch.Generator().manual_seed(seed)
    weights = model.init_weights(classes, seed, torch.float64)
    return {n: w + 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in weights.items()}


def numpy_logits(weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """The definition: [batch, 28, 28] -> [batch, classes], pixel by pixel, channels last."""
    x = images[..., None]
    for i, (size, before, after) in enumerate([(28, 0, 1), (14, 0, 1), (7, 1, 1), (4, 0, 1)]):
        assert x.shape[1:3] == (size, size)
        x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
        kernel = weights[f"conv_{i}/kernel"]  # [out, in, 3, 3]
        out = np.zeros((len(x), -(-size // 2), -(-size // 2), 64))
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                patch = x[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                out[:, row, column] = np.einsum("bhwi,oihw->bo", patch, kernel)
        mean = out.mean((0, 1, 2))
        variance = ((out - mean) ** 2).mean((0, 1, 2))
        out = (out - mean) / np.sqrt(variance + 1e-3) * weights[f"norm_{i}/scale"] + weights[f"norm_{i}/bias"]
        x = np.maximum(out, 0)
    return x.reshape(len(x), 256) @ weights["dense/kernel"].T + weights["dense/bias"]


def numpy_mini_imagenet(weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """The definition: [batch, height, width, channels] -> [batch, classes], pixel by pixel, channels last."""
    x = images
    for i in range(4):
        _, height, width, _ = x.shape
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = weights[f"conv_{i}/kernel"]  # [out, in, 3, 3]
        out = np.zeros((len(x), height, width, kernel.shape[0]))
        for row in range(height):
            for column in range(width):
                out[:, row, column] = np.einsum("bhwi,oihw->bo", x[:, row : row + 3, column : column + 3], kernel)
        mean = out.mean((0, 1, 2))
        variance = ((out - mean) ** 2).mean((0, 1, 2))
        out = (out - mean) / np.sqrt(variance + 1e-3) * weights[f"norm_{i}/scale"] + weights[f"norm_{i}/bias"]
        rows = [
            [out[:, row : row + 2, column : column + 2].max((1, 2)) for column in range(0, width, 2)]
            for row in range(0, height, 2)
        ]
        x = np.maximum(np.stack([np.stack(row, 1) for row in rows], 1), 0)
    return x.reshape(len(x), -1) @ weights["dense/kernel"].T + weights["dense/bias"]


@pytest.mark.parametrize(("height", "width", "channels"), [(20, 20, 3), (13, 21, 1)])
def test_mini_imagenet_follows_the_definition(height: int, width: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = model.init_weights(5, 0, torch.float64, 6, (height, width, channels))
    weights = {n: w + 0.5 * torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in weights.items()}
    assert any(w.min() < 0 for n, w in weights.items() if n.endswith("scale"))
    images = np.random.default_rng(0).random((3, height, width, channels))
    got = model.logits(weights, torch.from_numpy(images), "miniimagenet")
    want = numpy_mini_imagenet({n: w.numpy() for n, w in weights.items()}, images)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-11, atol=1e-11)


def test_mini_imagenet_has_the_released_weights_without_the_convolutions_biases() -> None:
    weights = model.init_weights(5, 0, filters=32, shape=(84, 84, 3))
    assert sum(w.numel() for w in weights.values()) == 34_661 - 4 * 32


@pytest.mark.parametrize(("size", "padding"), [(28, (0, 1)), (14, (0, 1)), (7, (1, 1)), (4, (0, 1))])
def test_same_padding_is_tensorflows(size: int, padding: tuple[int, int]) -> None:
    assert model.same_padding(size) == padding


def test_logits_follow_the_definition() -> None:
    weights = random_weights(0)
    images = np.random.default_rng(0).random((6, 28, 28))
    got = model.logits(weights, torch.from_numpy(images))
    want = numpy_logits({n: w.numpy() for n, w in weights.items()}, images)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-11, atol=1e-11)


def test_one_bit_images_of_any_dtype_give_the_same_logits() -> None:
    weights = random_weights(1)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (3, 28, 28), dtype=np.uint8))
    torch.testing.assert_close(model.logits(weights, images), model.logits(weights, images.double()), rtol=0, atol=0)


def test_a_query_depends_on_what_else_is_in_its_batch() -> None:
    weights = random_weights(2)
    images = torch.from_numpy(np.random.default_rng(2).random((4, 28, 28)))
    assert not torch.allclose(model.logits(weights, images)[0], model.logits(weights, images[:2])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_weights(dtype: torch.dtype) -> None:
    weights = model.init_weights(5, 0, dtype)
    assert all(w.dtype == dtype for w in weights.values())
    # The published 113,221 count the convolutions' 4 * 64 biases.
    assert sum(w.numel() for w in weights.values()) == 113_221 - 4 * 64
    fans = {f"conv_{i}/kernel": (9 * (64 if i else 1), 9 * 64) for i in range(4)} | {"dense/kernel": (256, 5)}
    for name, (fan_in, fan_out) in fans.items():
        limit = (6 / (fan_in + fan_out)) ** 0.5
        assert weights[name].abs().max() <= limit
        # A uniform variable on [-limit, limit] has standard deviation limit / sqrt(3).
        assert weights[name].std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
    for name in weights.keys() - fans.keys():
        assert torch.all(weights[name] == (1 if name.endswith("scale") else 0))


def test_initial_weights_are_a_function_of_the_seed() -> None:
    first, again, other = (model.init_weights(5, seed)["conv_1/kernel"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

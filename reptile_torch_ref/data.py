"""Omniglot through torchvision, the split by seed and the four rotations: uint8 drawings, ink 0 and paper 1."""

import random
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision import transforms

TRAIN_CHARACTERS = 1200  # of Omniglot's 1,623; those held out for validation are among them
CHARACTERS = {"images_background": 964, "images_evaluation": 659}  # of 20 drawings each


class Split(NamedTuple):
    """Disjoint classes, uint8 [classes, 20, 28, 28]; only the training classes are rotated."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Omniglot(torchvision.datasets.Omniglot):
    """torchvision's Omniglot, sorted, one bit at 28x28, from a local archive too, which is judged by its content."""

    def __init__(self, root: str | Path, background: bool, archives: str) -> None:
        """Lists one of the two halves in `root`, extracted from the folder `archives`, or downloaded if that is ""."""
        self.archives = archives
        # Nearest neighbour is the only filter Pillow has for one bit; the loader leaves out torchvision's convert("L").
        resize = transforms.Resize((28, 28), transforms.InterpolationMode.NEAREST)
        transform = transforms.Compose([resize, transforms.PILToTensor()])
        super().__init__(root, background, transform, download=True, loader=Image.open)
        self._characters.sort(key=lambda name: Path(name).parts)  # they come in the file system's order
        files = [sorted(Path(self.target_folder, name).glob("*.png")) for name in self._characters]
        self._flat_character_images = [(path.name, i) for i, paths in enumerate(files) for path in paths]

    def _check_integrity(self) -> bool:
        folders = Path(self.root, self._get_target_folder()).glob("*/character*")
        return [len(list(path.glob("*.png"))) for path in folders] == [20] * CHARACTERS[self._get_target_folder()]

    def download(self) -> None:
        """Extracts the local archive; without one, downloads what is published and checks its checksum."""
        archive = Path(self.archives, f"{self._get_target_folder()}.zip")
        if not self.archives:
            return super().download()
        torchvision.datasets.utils.extract_archive(archive, self.root)  # zipfile keeps every member inside the root
        if not self._check_integrity():
            raise ValueError(f"{archive} does not hold {CHARACTERS[archive.stem]} characters of 20 drawings")


def load_omniglot(archives: str = "") -> tuple[np.ndarray, list[str]]:
    """Returns uint8 [1623, 20, 28, 28] and names "Alphabet/characterNN", sorted by alphabet, character and file.

    The zip files in the folder `archives` are extracted to a temporary folder; "": downloaded into torch's cache.
    """
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for background in (True, False):
            half = Omniglot(temporary if archives else torch.hub.get_dir(), background, archives)
            drawings = torch.cat([image for image, _ in half]).numpy().astype(np.uint8).reshape(-1, 20, 28, 28)
            found |= dict(zip(half._characters, drawings, strict=True))
    names = sorted(found, key=lambda name: Path(name).parts)
    return np.stack([found[name] for name in names]), names


def split(images: np.ndarray, train_characters: int, seed: int, validation_classes: int = 0) -> Split:
    """Shuffles the sorted characters by seed; the first `train_characters` train, `validation_classes` from their end.

    Each training character makes four classes side by side: turned by 0, 90, 180, 270 degrees counter-clockwise.
    """
    if not 0 <= validation_classes < train_characters:
        raise ValueError(f"data.validation_classes={validation_classes} must be from 0 to {train_characters - 1}")
    order = list(range(len(images)))
    random.Random(seed).shuffle(order)
    shuffled, end = torch.from_numpy(images[order]), train_characters - validation_classes
    turned = [transforms.functional.rotate(shuffled[:end], angle) for angle in (0, 90, 180, 270)]
    return Split(torch.stack(turned, 1).flatten(0, 1), shuffled[end:train_characters], shuffled[train_characters:])


def load(name: str, archives: str, seed: int, validation_classes: int) -> Split:
    """Loads and splits "omniglot" or the embedded "glyphs"; the arguments are the configuration's fields."""
    if name == "omniglot":
        return split(load_omniglot(archives)[0], TRAIN_CHARACTERS, seed, validation_classes)
    if name == "glyphs":
        from reptile_jax.data import glyphs  # NumPy alone

        return split(glyphs.load().images, glyphs.TRAIN_CHARACTERS, seed, validation_classes)
    raise ValueError(f'data.name="{name}": choose "omniglot" or "glyphs"')

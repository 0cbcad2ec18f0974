"""Loads data through torchvision: Omniglot (ink 0, paper 1) with its split and rotations, and folders of images."""

import random
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import datasets, transforms

TRAIN_CHARACTERS = 1200  # of Omniglot's 1,623; those held out for validation are among them
SCALE = {"omniglot": 1, "glyphs": 1, "images": 255}  # the divisor that makes numbers from 0 to 1 of pixels


class Split(NamedTuple):
    """Disjoint classes: characters uint8 [classes, 20, 28, 28], the training ones rotated, or a tensor for each class.

    A class of images is uint8 [images, height, width, channels].
    """

    train: Any
    validation: Any
    test: Any


class Omniglot(datasets.Omniglot):
    """One half of torchvision's Omniglot, sorted, with one bit per pixel at 28x28; checks the archive's content."""

    def __init__(self, root: str | Path, background: bool, download: bool) -> None:
        """Lists the extracted files in `root`, or downloads the published archive and checks its checksum."""
        # Nearest neighbour is the only filter Pillow has for one bit; the loader leaves out torchvision's convert("L").
        resize = transforms.Resize((28, 28), transforms.InterpolationMode.NEAREST)
        transform = transforms.Compose([resize, transforms.PILToTensor()])
        super().__init__(root, background, transform, download=download, loader=Image.open)
        self._characters.sort(key=lambda name: Path(name).parts)  # they come in the file system's order
        files = [sorted(Path(self.target_folder, name).glob("*.png")) for name in self._characters]
        self._flat_character_images = [(path.name, i) for i, paths in enumerate(files) for path in paths]
        expected = 964 if background else 659
        if [len(paths) for paths in files] != [20] * expected:
            raise ValueError(f"{self.target_folder} is damaged: it must hold {expected} characters of 20 drawings")

    def _check_integrity(self) -> bool:
        return Path(self.root, self._get_target_folder()).is_dir()


def load_omniglot(archives: str = "") -> tuple[np.ndarray, list[str]]:
    """Returns uint8 [1623, 20, 28, 28] and names "Alphabet/characterNN", sorted by alphabet, character and file.

    The zip files in the folder `archives` are extracted to a temporary folder; "" means to download them into torch's
    cache.
    """
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for background, half in ((True, "images_background"), (False, "images_evaluation")):
            if archives:  # zipfile keeps every member inside the folder it extracts to
                datasets.utils.extract_archive(Path(archives, f"{half}.zip"), Path(temporary, Omniglot.folder))
            data = Omniglot(temporary if archives else torch.hub.get_dir(), background, download=not archives)
            drawings = torch.cat([image for image, _ in data]).numpy().astype(np.uint8).reshape(-1, 20, 28, 28)
            found |= dict(zip(data._characters, drawings, strict=True))
    names = sorted(found, key=lambda name: Path(name).parts)
    return np.stack([found[name] for name in names]), names


class Images(NamedTuple):
    """A set of images: pixels uint8 [images, height, width, channels], names of classes, and each image's class."""

    pixels: Tensor
    names: list[str]
    targets: Tensor


def load_images(directory: str | Path, size: int, channels: int) -> dict[str, Images]:
    """Returns the sets that ImageFolder reads: DIR/train, val and test (or zip files), or the one set "", DIR/CLASS/*.

    Images are resized to [size, size] with Pillow's bicubic filter; one channel means grey and three mean RGB.
    """
    grey = [transforms.Grayscale()] if channels == 1 else []
    resize = transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC)
    transform = transforms.Compose([*grey, resize, transforms.PILToTensor()])
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("train", "val", "test"):
            place = Path(directory, name)
            if (archive := place.with_suffix(".zip")).exists():
                place = Path(temporary, name)
                datasets.utils.extract_archive(archive, place)
                place = place / name if (place / name).is_dir() else place
            if place.is_dir():
                found[name] = _read_folder(place, transform)
    return found or {"": _read_folder(Path(directory), transform)}


def _read_folder(folder: Path, transform: transforms.Compose) -> Images:
    def is_image(path: str) -> bool:
        return not Path(path).name.startswith(".")

    data = datasets.ImageFolder(str(folder), transform, loader=_open_image, is_valid_file=is_image)
    pixels = torch.stack([image for image, _ in data]).permute(0, 2, 3, 1)
    return Images(pixels, data.classes, torch.tensor(data.targets))


def _open_image(path: str) -> Image.Image:
    """Opens an image upright, on white, as RGB of 8 bits."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    colour, alpha = np.split(np.asarray(image.convert("RGBA"), np.float64), [3], axis=2)
    return Image.fromarray(np.rint(255 - (255 - colour) * alpha / 255).astype(np.uint8))


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


def split_images(found: dict[str, Images], train_classes: int, seed: int, validation_classes: int = 0) -> Split:
    """Uses the sets of the folders, or shuffles the classes by seed in the same way as characters."""
    classes = {name: [x.pixels[x.targets == i] for i in range(len(x.names))] for name, x in found.items()}
    if "" not in classes:
        return Split(*(classes.get(name, []) for name in ("train", "val", "test")))
    order = list(range(len(classes[""])))
    random.Random(seed).shuffle(order)
    shuffled, end = [classes[""][i] for i in order], train_classes or round(0.8 * len(order))
    return Split(shuffled[: end - validation_classes], shuffled[end - validation_classes : end], shuffled[end:])


def load(data: Any, seed: int) -> Split:
    """Loads and splits "omniglot", the synthetic "glyphs" or "images"; `data` has the configuration's fields."""
    if data.name not in SCALE:
        raise ValueError(f'data.name="{data.name}": choose "omniglot", "glyphs" or "images"')
    if data.rotations != (data.name != "images"):
        raise ValueError(f"data.rotations={data.rotations}: this implementation turns characters, and no images")
    if data.name == "omniglot":
        training = data.train_classes or TRAIN_CHARACTERS
        return split(load_omniglot(data.archives)[0], training, seed, data.validation_classes)
    if data.name == "glyphs":
        from reptile_jax.data import glyphs  # the only module that both programs share

        training = data.train_classes or glyphs.TRAIN_CHARACTERS
        return split(glyphs.load().images, training, seed, data.validation_classes)
    found = load_images(data.dir, data.size, data.channels)
    return split_images(found, data.train_classes, seed, data.validation_classes)

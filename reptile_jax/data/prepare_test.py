"""Compares one prepared image, in every format and mode, with pixels computed by hand."""

import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image

from reptile_jax.data.images import DataError
from reptile_jax.data.prepared import prepare, read_image
from reptile_jax.testing.small_images import encoded, pixels


def read(content, size=8, channels=3):
    return read_image(io.BytesIO(content), "image", partial(prepare, size=size, channels=channels))


def png_file(height, width, bits, colour_type, **chunks):
    """Returns a PNG file by its specification, with the given chunks."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind.encode()
        + content
        + struct.pack(">I", zlib.crc32(kind.encode() + content))
        for kind, content in {"IHDR": header, **chunks, "IEND": b""}.items()
    )


def png(values, bits, colour_type, **chunks):
    """Returns a PNG file of values [height, width, samples] of 8 or 16 bits."""
    rows = np.asarray(values, ">u2" if bits == 16 else np.uint8).reshape(len(values), -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return png_file(*values.shape[:2], bits, colour_type, **chunks, IDAT=data)


def on_white(colour, alpha):
    """Blends uint8 colours [..., 3] with opacities [...] onto white paper."""
    return np.round(255 + (colour.astype(float) - 255) * alpha[..., None] / 255)


def luma(colour):
    """Returns grey by ITU-R 601-2."""
    return colour.astype(float) @ np.array([0.299, 0.587, 0.114])


def bicubic(image, size):
    """Resamples [height, width, channels] by Keys' cubic (a = -0.5), which is widened if the image becomes smaller."""

    def kernel(x):
        x = np.abs(x)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    def weights(before):
        scale = before / size
        centres = (np.arange(size) + 0.5) * scale
        w = kernel((np.arange(before) + 0.5 - centres[:, None]) / max(scale, 1))
        return w / w.sum(1, keepdims=True)

    across = np.clip(np.einsum("yxc,jx->yjc", image.astype(float), weights(image.shape[1])), 0, 255)
    return np.clip(np.einsum("yjc,iy->ijc", across, weights(image.shape[0])), 0, 255)


# Formats.


@pytest.mark.parametrize(("file_format", "options"), [("png", {}), ("bmp", {}), ("webp", {"lossless": True})])
def test_a_lossless_image_of_the_size_stays_bit_for_bit(file_format, options):
    image = pixels(0)
    content = encoded(image, file_format, **options)
    np.testing.assert_array_equal(read(content), image)
    np.testing.assert_allclose(read(content, channels=1)[..., 0], luma(image), atol=0.51)


@pytest.mark.parametrize("file_format", ["jpeg", "webp"])
def test_a_lossy_image_is_nearly_the_same(file_format):
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[:, None, None], (1, 32, 3))
    np.testing.assert_allclose(read(encoded(ramp, file_format, quality=95), 32), ramp, atol=4)


def test_of_a_gif_the_first_frame():
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    file = io.BytesIO()
    red.save(file, "GIF", save_all=True, append_images=[blue])
    assert (read(file.getvalue()) == [255, 0, 0]).all()


def test_results_are_plain_arrays_of_the_asked_shape():
    image = Image.fromarray(pixels(0, 30, 20))
    for channels in (1, 3):
        prepared = prepare(image, 12, channels)
        assert (prepared.shape, prepared.dtype) == ((12, 12, channels), np.uint8)


# Modes.


def test_grey_and_one_bit():
    grey = pixels(1)[..., 0]
    assert (read(encoded(grey)) == grey[..., None]).all()
    assert (read(encoded(grey), channels=1)[..., 0] == grey).all()
    content = io.BytesIO()
    Image.fromarray(grey > 127).save(content, "PNG")
    assert (read(content.getvalue()) == np.where(grey > 127, 255, 0)[..., None]).all()


def test_palette_with_and_without_transparency():
    palette, index = pixels(2, 1, 256)[0], np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    for file_format in ("PNG", "GIF", "BMP"):
        content = io.BytesIO()
        image.save(content, file_format)
        np.testing.assert_array_equal(read(content.getvalue()), palette[index])
    content, opacity = io.BytesIO(), np.arange(256, dtype=np.uint8)
    image.save(content, "PNG", transparency=opacity.tobytes())
    np.testing.assert_array_equal(read(content.getvalue()), on_white(palette[index], opacity[index]))


def test_alpha_lies_on_white():
    colour, alpha = pixels(3), pixels(4)[..., 0]
    np.testing.assert_array_equal(read(encoded(np.dstack([colour, alpha]))), on_white(colour, alpha))
    grey = colour[..., :1]
    content = png(np.dstack([grey, alpha]), 8, colour_type=4)
    np.testing.assert_array_equal(read(content, channels=1), on_white(grey, alpha))
    transparent = np.dstack([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)])
    assert (read(encoded(transparent)) == 255).all()  # and not the black below it


def test_one_transparent_colour():
    grey = np.tile(np.arange(8, dtype=np.uint8), (8, 1))
    expected = np.where(grey == 3, 255, grey)[..., None]
    assert (read(png(grey[..., None], 8, colour_type=0, tRNS=struct.pack(">H", 3))) == expected).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_the_higher_8(channels):
    values = np.random.default_rng(5).integers(0, 2**16, (8, 8, channels), np.uint16)
    np.testing.assert_array_equal(
        read(png(values, 16, colour_type={1: 0, 3: 2}[channels]), channels=channels), values // 256
    )


def test_16_bits_with_one_transparent_grey():
    values = np.full((8, 8, 1), 300, np.uint16)
    values[2, 3] = 301
    prepared = read(png(values, 16, colour_type=0, tRNS=struct.pack(">H", 301)))
    assert (prepared[2, 3] == 255).all() and (prepared == 1).sum() == 63 * 3


def test_cmyk():
    c, m, y, k = 200, 20, 100, 50
    content = io.BytesIO()
    Image.new("CMYK", (8, 8), (c, m, y, k)).save(content, "JPEG", quality=100)
    expected = [(255 - ink) * (255 - k) / 255 for ink in (c, m, y)]
    np.testing.assert_allclose(read(content.getvalue()), np.tile(expected, (8, 8, 1)), atol=3)


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, -1),  # a quarter clockwise
    7: lambda x: np.swapaxes(x[::-1, ::-1], 0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_exif_says_which_way_is_up(orientation, file_format):
    image, exif = pixels(6), Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "webp" else {}
    content = encoded(image, file_format, exif=exif, **options)
    np.testing.assert_array_equal(read(content), UPRIGHT[orientation](image))


def test_exif_of_a_photograph_on_its_side():
    image, exif = np.zeros((32, 32, 3), np.uint8), Image.Exif()
    image[:16] = 255  # the upper half is white
    exif[0x0112] = 6
    prepared = read(encoded(image, "jpeg", exif=exif), 32)
    assert prepared[:, 20:].min() > 200 and prepared[:, :12].max() < 50  # upright, the right half is


# Size.


@pytest.mark.parametrize(("height", "width"), [(40, 24), (9, 50), (5, 4), (8, 16)])
def test_squashed_to_a_square_by_bicubic_with_antialiasing(height, width):
    image = pixels(7, height, width)
    expected = bicubic(image, 8)
    np.testing.assert_allclose(read(encoded(image)), expected, atol=1.01)
    for other in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
        assert np.abs(np.asarray(Image.fromarray(image).resize((8, 8), other)) - expected).max() > 3


def test_colours_are_converted_before_the_size():
    palette = Image.fromarray(pixels(8, 40, 40)).quantize(16)
    content = io.BytesIO()
    palette.save(content, "PNG")
    np.testing.assert_allclose(read(content.getvalue()), bicubic(np.asarray(palette.convert("RGB")), 8), atol=1.01)


# Files that are not images.


def refused(content, words):
    with pytest.raises(DataError, match=words) as error:
        read(content)
    assert "\n" not in str(error.value) and "image" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no image at all\n" * 9, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_one_line(content):
    refused(content, "image")


def test_another_format_is_refused():
    refused(encoded(pixels(0), "tiff"), "image is not a PNG, JPEG, WebP, BMP or GIF image")


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp", "bmp", "gif"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_an_image_cut_short_is_one_line(file_format, part):
    content = encoded(pixels(9, 64, 64), file_format)
    refused(content[: int(part * len(content))], "image")


def test_a_decompression_bomb_is_one_line():
    refused(png_file(60_000, 60_000, 8, 0, IDAT=b""), "decompression bomb")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png cannot be read \(No such file or directory\)"):
        read_image(tmp_path / "nowhere.png", "nowhere.png", partial(prepare, size=8, channels=3))

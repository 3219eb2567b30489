"""Decoding against arrays that are known, resizing against what it must keep, damage against a named error."""

from __future__ import annotations

import zlib

import making
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from intriguing.data.images import Picture, decode, stack
from intriguing.errors import DataError


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_back(kind, colour):
    array = making.pixels(0, 5, 7, colour)
    found = decode(making.encoded(array, kind), "x")
    assert np.array_equal(found.pixels, array)
    assert found.converted == ""


def test_sixteen_bits_of_grey_become_floats():
    array = np.array([[0, 1, 65535], [32768, 256, 255]], dtype=np.uint16)
    found = decode(making.encoded(array), "x")
    assert found.pixels.dtype == np.float32
    assert np.array_equal(found.pixels, (array / 65535).astype(np.float32))
    assert "16-bit" in found.converted


def test_black_and_white_becomes_grey():
    image = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    assert decode(making.encoded(image), "x").pixels.tolist() == [[0, 255], [255, 0]]


def test_a_palette_becomes_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    found = decode(making.encoded(image), "x")
    assert found.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert "palette" in found.converted


def test_transparency_shows_white():
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0]]], dtype=np.uint8)
    assert decode(making.encoded(rgba), "x").pixels.tolist() == [[[200, 0, 0], [255, 255, 255]]]
    grey = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)])
    # 51 / 255 of black over white leaves 255 - 51.
    assert decode(making.encoded(grey), "x").pixels.tolist() == [[204]]
    keyed = Image.new("P", (1, 1))
    keyed.putpalette([9, 9, 9])
    assert decode(making.encoded(keyed, transparency=0), "x").pixels.tolist() == [[[255, 255, 255]]]


def test_a_float_image_must_lie_in_the_box():
    inside = np.array([[0, 0.25, 1]], dtype=np.float32)
    assert np.array_equal(decode(making.encoded(inside, "TIFF"), "x").pixels, inside)
    for bad in (np.nan, np.inf, 1.5, -0.5):
        with pytest.raises(DataError, match=r"'f\.tif' cannot be read.*0\.\.1"):
            decode(making.encoded(np.array([[bad]], dtype=np.float32), "TIFF"), "'f.tif'")


def test_the_orientation_of_the_camera_is_applied():
    array = making.pixels(1, 4, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(making.encoded(array, kind, exif=exif), "x").pixels, np.rot90(array, -1))


@given(st.integers(0, 10**6))
def test_no_flipped_bit_of_a_png_goes_unnoticed(at):
    data = bytearray(making.encoded(making.pixels(2, 12, 12)))
    at %= 8 * len(data)
    data[at // 8] ^= 1 << (at % 8)
    with pytest.raises(DataError, match=r"'digit\.png'"):
        decode(bytes(data), "'digit.png'")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_a_truncated_file_is_named(kind):
    data = making.encoded(making.pixels(3, 40, 40, True), kind)
    with pytest.raises(DataError, match="'cut' "):
        decode(data[: len(data) // 2], "'cut'")


@pytest.mark.parametrize("data", [b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8"])
def test_what_is_no_image_is_named(data):
    with pytest.raises(DataError, match=r"'note\.jpg' "):
        decode(data, "'note.jpg'")


def test_an_empty_file_is_named():
    with pytest.raises(DataError, match=r"'a\.png' is empty"):
        decode(b"", "'a.png'")


def test_a_right_checksum_over_wrong_data_is_still_damage():
    data = making.encoded(making.pixels(4))
    start = data.index(b"IDAT")
    size = int.from_bytes(data[start - 4 : start], "big")
    body = b"IDAT" + bytes(size)
    forged = data[:start] + body + zlib.crc32(body).to_bytes(4, "big") + data[start + 8 + size :]
    with pytest.raises(DataError, match="cannot be read"):
        decode(forged, "x")


def picture(array: np.ndarray) -> Picture:
    return Picture(array, "x")


def test_equal_sizes_are_kept_as_they_are():
    arrays = [making.pixels(i, 3, 5) for i in range(4)]
    block = stack(map(picture, arrays), None)
    assert np.array_equal(block.pixels, np.stack(arrays))
    assert (block.recipe, block.notes) == ("", {})


def test_a_size_that_changes_nothing_is_no_recipe():
    block = stack([picture(making.pixels(0))], 6)
    assert np.array_equal(block.pixels[0], making.pixels(0))
    assert block.recipe == ""


def test_unequal_sizes_ask_for_one_and_list_what_there_is():
    arrays = [making.pixels(0, 4, 6), making.pixels(1, 4, 6), making.pixels(2, 5, 5)]
    with pytest.raises(DataError, match=r"6x4 \(2\), 5x5 \(1\).*--size.*--size 4"):
        stack(map(picture, arrays), None)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.booleans(), st.booleans())
def test_resizing_gives_the_square_and_keeps_a_constant(height, width, size, colour, floats):
    shape = (height, width, 3) if colour else (height, width)
    array = np.full(shape, 0.4, np.float32) if floats else np.full(shape, 102, np.uint8)
    block = stack([picture(array)], size)
    assert block.pixels.shape == (1, size, size, *shape[2:])
    assert block.pixels.dtype == array.dtype
    # Weights of a resampled float sum to 1 up to rounding of the last digits.
    assert np.allclose(block.pixels, array.flat[0], atol=1e-6)


def test_the_middle_is_kept_and_shrinking_averages():
    array = np.zeros((4, 12), np.uint8)
    array[:, 4:8] = np.indices((4, 4)).sum(axis=0) % 2 * 200
    middle = stack([picture(array)], 4).pixels[0]
    assert np.array_equal(middle, array[:, 4:8])
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)
    # Without antialiasing a checkerboard would alias to 0 or 200; its mean is 100.
    assert np.abs(stack([picture(board)], 8).pixels.astype(int) - 100).max() <= 2


def test_resized_sets_say_so():
    block = stack([picture(making.pixels(0, 4, 8)), picture(making.pixels(0, 6, 6))], 6)
    assert "centre crop 6 x 6" in block.recipe
    assert block.notes["resized"].startswith("1 of 2 images")


def test_grey_among_colour_becomes_colour():
    block = stack([picture(making.pixels(0)), picture(making.pixels(1, colour=True))], None)
    assert np.array_equal(block.pixels[0], np.repeat(making.pixels(0)[:, :, None], 3, axis=2))
    assert "1 of 2 images: grey to RGB" in block.notes["converted"]


def test_bytes_among_floats_become_floats():
    block = stack([picture(np.full((1, 1), 51, np.uint8)), picture(np.full((1, 1), 0.5, np.float32))], None)
    assert block.pixels.flatten().tolist() == [np.float32(0.2), np.float32(0.5)]


def test_nothing_cannot_be_stacked():
    with pytest.raises(DataError, match="no images"):
        stack([], None)

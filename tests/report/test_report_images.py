import base64
import io

import numpy as np
import torch
from PIL import Image

from intriguing.report import images


def _decode(picture: images.Picture) -> Image.Image:
    head, _, body = picture.uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_a_small_image_survives_pixel_by_pixel():
    image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    picture = images.encode(image, budget=100_000)
    assert picture.pixels
    assert picture.reduced == 1
    decoded = np.asarray(_decode(picture)) / 255
    # Eight bits: no pixel moves by more than half a level.
    assert np.abs(decoded - image[0].numpy()).max() <= 0.5 / 255 + 1e-6


def test_colour_images_keep_their_channels_in_order():
    image = torch.tensor([1.0, 0.5, 0.0]).reshape(3, 1, 1).expand(3, 4, 4)
    assert _decode(images.encode(image, budget=100_000)).getpixel((0, 0)) == (255, 128, 0)


def test_an_image_over_its_budget_is_halved_until_it_fits():
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    picture = images.encode(image, budget=30_000)
    assert len(picture.uri) <= 30_000
    assert (picture.width, picture.height) == (256 // picture.reduced,) * 2
    assert not picture.pixels


def test_halving_stops_at_about_fifty_pixels():
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert images.encode(image, budget=1).width == 64


def test_values_outside_the_box_are_clamped_and_nan_is_black():
    picture = _decode(images.encode(torch.tensor([[[float("nan"), -3.0, 7.0]]]), budget=10_000))
    assert [picture.getpixel((i, 0)) for i in range(3)] == [0, 0, 255]


def test_a_reference_to_nothing_yields_nothing():
    tensors = {"a": torch.zeros(2, 1, 4, 4), "flat": torch.zeros(2, 4), "many": torch.zeros(2, 5, 4, 4)}
    assert images.pick(tensors, {"tensor": "a", "index": 1}) is not None
    absent = [{"tensor": "b", "index": 0}, {"tensor": "a", "index": 2}, {"tensor": "a", "index": -1}]
    wrong = [{"tensor": "flat", "index": 0}, {"tensor": "many", "index": 0}, {"index": "0"}, None, "a"]
    assert all(images.pick(tensors, reference) is None for reference in absent + wrong)


def test_an_album_keeps_its_budget_and_leaves_out_what_cannot_fit():
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    one = len(images.encode(noise, budget=1).uri)
    album = images.Album(2 * one + 10, 4)
    kept = [album.add(image) for image in (noise, None, noise, noise)]
    assert [picture is not None for picture in kept] == [True, False, True, False]

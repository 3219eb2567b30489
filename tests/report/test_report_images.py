import base64
import io

import numpy as np
import sample_parts
import torch
from PIL import Image

from intriguing.report import images


def _decode(picture: images.Picture) -> Image.Image:
    head, _, body = picture.uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/webp;base64")
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


def _noise(side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def test_a_photograph_is_small_and_smooth_and_lossless_only_when_told():
    photograph = sample_parts.photographs(np.random.default_rng(0), 1)[0]
    lossy, exact = (images.encode(photograph, budget=10**6, lossless=exact) for exact in (False, True))
    assert lossy.uri.startswith("data:image/webp")
    assert exact.uri.startswith("data:image/png")
    assert len(lossy.uri) < len(exact.uri) / 3
    assert not lossy.pixels
    assert np.abs(np.asarray(_decode(exact)) / 255 - photograph.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    # A tenth of full scale, rms, would be seen.
    assert np.sqrt(np.mean((np.asarray(_decode(lossy)) / 255 - photograph.permute(1, 2, 0).numpy()) ** 2)) < 0.03


def test_small_images_keep_hard_pixels_and_larger_colour_ones_do_not():
    kept = [
        images.encode(torch.rand(c, side, side), budget=10**6).pixels
        for c, side in ((1, 28), (1, 64), (3, 32), (3, 64))
    ]
    assert kept == [True, True, True, False]


def test_a_row_that_shows_a_change_is_told_from_one_that_does_not():
    plain, other = _noise(), _noise(seed=1)
    changed = plain + 0.0065 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(2))
    difference = 0.5 + 10 * (changed - plain)
    assert images.compares([plain, difference, changed])
    assert not images.compares([plain, other, None])
    assert not images.compares([plain, plain])
    assert not images.compares([])


def test_the_adversarial_photograph_on_the_page_is_the_one_that_was_found():
    plain = sample_parts.photographs(np.random.default_rng(0), 1)[0]
    changed = (plain + 0.0065 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    row = [plain, (0.5 + 10 * (changed - plain)).clamp(0, 1), changed]
    shown = [np.asarray(_decode(p)) / 255 for p in images.Album(10**6, [row]).add(row)]
    for image, decoded in zip(row, shown, strict=True):
        assert np.abs(decoded - image.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6


def test_an_album_keeps_its_budget_and_leaves_out_what_cannot_fit():
    photographs = [_noise(64, seed) for seed in range(3)]
    row = [photographs[0], None, *photographs[1:]]
    # Even at their smallest, two of the three fill the page.
    two = sum(len(images.encode(p, budget=1).uri) for p in photographs[:2])
    kept = images.Album(two + 10, [row]).add(row)
    assert sum(len(p.uri) for p in kept if p) <= two + 10
    assert [p is not None for p in kept].count(True) == 2
    assert kept[1] is None


def test_an_album_saves_only_as_much_as_it_must():
    rows = [[sample_parts.photographs(np.random.default_rng(k), 1)[0]] for k in range(8)]
    wanted = sum(len(images.encode(row[0], budget=10**6).uri) for row in rows)
    for budget in (2 * wanted, wanted * 9 // 10):
        album = images.Album(budget, rows)
        pictures = [album.add(row)[0] for row in rows]
        assert all(pictures)
        assert sum(len(p.uri) for p in pictures) <= budget
        assert max(p.reduced for p in pictures) == 1


def test_rows_of_galleries_and_cards_are_found_and_nothing_else():
    tensors = {"a": torch.zeros(2, 1, 4, 4)}
    reference = {"tensor": "a", "index": 1}
    figures = [
        {"kind": "gallery", "groups": [{"rows": [{"images": [reference, {"tensor": "gone"}]}, {}]}, {}]},
        {"kind": "cards", "cards": [{"images": [reference]}, {}]},
        {"kind": "lines", "series": []},
    ]
    assert [[i is not None for i in row] for row in images.rows(figures, tensors)] == [[True, False], [], [True], []]

"""Resizing, slicing and patches of pictures against the golden numbers."""

import hashlib
import io
from contextlib import suppress
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from omni.errors import ClientError
from omni.minicpmo.images import best_size, decode_image, mosaic, slice_grid, slice_image
from omni.minicpmo.model.vision import normalize, position_buckets
from tests.minicpmo.pictures import golden_picture


def test_sizes_grids_and_pixels_are_the_golden_ones(expected):
    golden = expected("a_image")
    for case in golden.facts["cases"]:
        image = golden_picture(case["width"], case["height"], case["image_k"])
        assert hashlib.sha256(image.tobytes()).hexdigest() == case["sha256_rgb"]

        sliced = slice_image(image, case["max_slice_nums"])

        assert sliced.grid == (tuple(case["grid"]) if case["grid"] else None)
        assert [list(grid) for grid in sliced.patch_grids] == case["tgt_sizes"]
        for number, patches in enumerate(sliced.patches):
            prefix = f"case{case['case']}.slice{number}"
            stored = golden.tensors.get(f"{prefix}.all_u8", golden.tensors.get(f"{prefix}.rows_u8"))
            stride = 1 if f"{prefix}.all_u8" in golden.tensors else 97
            assert np.array_equal(patches[::stride], stored.numpy()), prefix


def test_mean_and_spread_of_every_output_are_the_golden_ones(expected):
    for case in expected("a_image").facts["cases"]:
        image = golden_picture(case["width"], case["height"], case["image_k"])
        sliced = slice_image(image, case["max_slice_nums"])

        for patches, fact in zip(sliced.patches, case["slices"], strict=True):
            values = normalize(torch.from_numpy(patches), torch.float32)
            assert values.mean().item() == pytest.approx(fact["mean"], abs=1e-5)
            assert values.std(correction=0).item() == pytest.approx(fact["std"], abs=1e-4)


def test_patches_are_columns_of_the_published_strip(expected):
    golden = expected("a_image")
    strip = golden.tensors["case1.slice0.strip_f32_head"]
    sliced = slice_image(golden_picture(640, 480, 1), 1)

    values = normalize(torch.from_numpy(sliced.patches[0][:4]), torch.float32)

    as_strip = values.view(4, 3, 14, 14).permute(1, 2, 0, 3).reshape(3, 14, 56)
    torch.testing.assert_close(as_strip, strip, rtol=0, atol=1e-6)


def test_position_buckets_are_the_golden_ones(expected):
    facts = expected("a_image").facts
    for case in facts["position_buckets"]:
        assert position_buckets(case["n"], 70).tolist() == case["bucket"], case["n"]


@settings(deadline=None)
@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(1, 16))
def test_any_picture_gives_whole_patches_and_at_most_the_slices_allowed(width, height, most):
    grid = slice_grid((width, height), most)

    size = best_size((width, height), upscale=grid is None)
    assert all(side >= 14 and side % 14 == 0 for side in size)
    assert grid is None or 1 <= grid[0] * grid[1] <= most


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_what_is_no_picture_is_the_callers_error(data):
    with pytest.raises(ClientError, match="not a picture that can be read"):
        decode_image(data)


def test_a_truncated_picture_is_the_callers_error():
    file = io.BytesIO()
    golden_picture(300, 200, 0).save(file, "JPEG")

    with pytest.raises(ClientError, match="not a picture that can be read"):
        decode_image(file.getvalue()[:2000])


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.new("1", (10000, 8000)).save(file, "PNG")

    with pytest.raises(ClientError, match="10000x8000 pixels"):
        decode_image(file.getvalue())


def test_pictures_with_palette_or_transparency_become_rgb():
    file = io.BytesIO()
    Image.new("RGBA", (20, 10), (10, 20, 30, 0)).save(file, "PNG")

    image = decode_image(file.getvalue())

    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (20, 10), (10, 20, 30))


def test_a_picture_of_sixteen_bits_keeps_its_brightness():
    """Pillow cuts such pixels at 255 of 65,535: all but the darkest would be white."""
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)).save(file, "PNG")

    image = decode_image(file.getvalue())

    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 0x80, 0xFF]


def test_a_picture_is_turned_upright():
    """Phones write the pixels as the sensor lies, and how they held it."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the top of the scene is at the right
    scene = Image.new("RGB", (40, 20), "blue")
    scene.paste("red", (0, 0, 10, 20))
    scene.save(file, "PNG", exif=exif)

    image = decode_image(file.getvalue())

    assert image.size == (20, 40)
    assert (image.getpixel((10, 0)), image.getpixel((10, 39))) == ((255, 0, 0), (0, 0, 255))


def test_the_first_of_moving_pictures_is_seen():
    file = io.BytesIO()
    first, second = (Image.new("RGB", (20, 10), color) for color in ("red", "blue"))
    first.save(file, "GIF", save_all=True, append_images=[second])

    assert decode_image(file.getvalue()).getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken tags
def test_broken_files_are_pictures_or_the_callers_error(kind):
    """AVIF raised RuntimeError, which ended a call that a broken frame should not end."""
    file, random = io.BytesIO(), Random(kind)
    golden_picture(60, 40, 3).save(file, kind)
    for _ in range(60):
        broken = bytearray(file.getvalue())
        for _ in range(random.randrange(1, 12)):
            broken[random.randrange(len(broken))] = random.randrange(256)

        with suppress(ClientError):
            assert decode_image(bytes(broken)).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1025), (10250, 10)])
def test_a_line_is_refused(size):
    """One of 64 million pixels would be 256,000 patches, and all sessions would wait for it."""
    with pytest.raises(ClientError, match="1024 times the other"):
        slice_image(Image.new("RGB", size), 9)


def test_the_longest_picture_has_no_more_patches_than_others():
    (patches,) = slice_image(Image.new("RGB", (1, 1024)), 1).patches

    assert len(patches) <= 1024


@pytest.mark.parametrize(
    ("sizes", "canvas"),
    [
        ([(40, 30)] * 4, (86, 66)),
        ([(40, 30)] * 2, (40, 66)),
        ([(30, 40)] * 2, (66, 40)),
        ([(40, 40)] * 2, (86, 40)),
        ([(40, 30)] * 3, (40, 102)),
        ([(40, 30)] * 5, (224, 30)),
        ([(40, 30), (20, 50)], (86, 50)),
    ],
)
def test_a_mosaic_is_as_square_as_it_can_be(sizes, canvas):
    tiles = [Image.new("RGB", size, "red") for size in sizes]

    assert mosaic(tiles).size == canvas


def test_mosaic_cells_are_letterboxed_on_white_with_black_gaps_between():
    picture = mosaic([Image.new("RGB", (40, 40), "red"), Image.new("RGB", (20, 40), "blue")])

    assert picture.size == (40, 86)
    assert picture.getpixel((20, 20)) == (255, 0, 0)
    assert picture.getpixel((20, 42)) == (0, 0, 0)
    assert picture.getpixel((4, 60)) == (255, 255, 255)
    assert picture.getpixel((20, 60)) == (0, 0, 255)


def test_a_mosaic_of_long_and_tall_pictures_stays_small():
    """The frames of a film may differ in size: a cell as wide as one and as high as another."""
    long, tall = (Image.new("1", size) for size in ((16000, 16), (16, 16000)))

    picture = mosaic([long.convert("RGB"), tall.convert("RGB")] * 8)

    assert picture.width * picture.height < 70_000_000

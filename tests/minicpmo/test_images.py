"""Resizing, slicing and patches of pictures against the golden numbers."""

import hashlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

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

"""The vision tower and resampler against the golden numbers, and batches against single images."""

from typing import Any

import pytest
import torch
from torch import Tensor

from omni.minicpmo.images import SlicedImage, slice_image
from omni.minicpmo.model.vision import normalize, position_table
from tests.minicpmo.pictures import golden_picture

TOLERANCE = 1e-4  # measured 5.3e-6


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=TOLERANCE)


# The golden description leaves the picture numbers of its four cases out: found by trying them.
PICTURE_NUMBERS = ((1,), (7,), (2, 5), (6,))


def pictures_of(case: dict[str, Any]) -> list[SlicedImage]:
    numbers = PICTURE_NUMBERS[case["case"]]
    return [
        slice_image(golden_picture(width, height, number), case["max_slice_nums"])
        for number, (width, height) in zip(numbers, case["images"], strict=True)
    ]


def parts_of(pictures: list[SlicedImage]) -> tuple[list[Tensor], list[tuple[int, int]]]:
    patches = [torch.from_numpy(part) for picture in pictures for part in picture.patches]
    return patches, [grid for picture in pictures for grid in picture.patch_grids]


@pytest.mark.parametrize("number", range(4))
def test_features_and_embeddings_are_the_golden_ones(model, expected, number):
    golden = expected("b_vision")
    case = golden.facts["cases"][number]
    tower = model.vision.tower
    patches, grids = parts_of(pictures_of(case))

    assert [list(grid) for grid in grids] == case["tgt_sizes"]
    for index, (part, grid, stride) in enumerate(zip(patches, grids, case["row_strides"])):
        values = normalize(part, torch.float32)[None]
        embedded = tower.embed(values, grid)
        stages = {
            "embed_rows": embedded,
            "layer0_rows": tower.layers[0](embedded),
            "vpm_rows": tower(values, grid),
        }
        for name, stage in stages.items():
            stored = golden.tensors.get(f"case{number}.img{index}.{name}")
            if stored is not None:
                close(stage[0, ::stride], stored)
    close(model.vision(patches, grids), golden.tensors[f"case{number}.resampler"])


def test_the_resamplers_position_table_is_the_golden_one(model, expected):
    golden = expected("b_vision")
    table = position_table((70, 70), model.vision.resampler.config.hidden_size).view(70, 70, -1)
    rows = torch.stack([table[row, column] for row, column in golden.facts["pos_rows_at"]])

    close(rows, golden.tensors["resampler.pos_rows"])


def test_pictures_in_a_mixed_batch_get_what_they_get_alone(model):
    sizes = [(640, 480), (448, 448), (640, 480), (300, 500), (448, 448), (640, 480)]
    pictures = [slice_image(golden_picture(*size, number), 1) for number, size in enumerate(sizes)]
    patches, grids = parts_of(pictures)

    together = model.vision(patches, grids)

    alone = [model.vision([part], [grid]) for part, grid in zip(patches, grids, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)

"""Pictures by recorded steps, on a CPU called in place of replayed, against the plain modules."""

import numpy as np
import pytest
import torch

from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.graphs import GraphPool
from omni.minicpmo.images import PatchGrid
from omni.minicpmo.seeing import Seeing


@pytest.mark.parametrize(
    "grids",
    [
        [(32, 32)],
        [(28, 37)] * 3,
        [(24, 43), (5, 6), (24, 43)],
        [(43, 24)] * 5,
    ],
    ids=["one", "filled up to four", "one of no usual size", "more than recorded"],
)
def test_recorded_pictures_are_the_plain_ones(model: MiniCpmO, grids: list[PatchGrid]) -> None:
    random = np.random.default_rng(4)
    patches = [
        random.integers(0, 256, (rows * columns, 588), dtype=np.uint8) for rows, columns in grids
    ]
    seeing = Seeing(model.vision, GraphPool(torch.device("cpu")))
    seeing.record()

    embeds = seeing.see(patches, grids)

    wanted = model.vision([torch.from_numpy(each) for each in patches], grids)
    torch.testing.assert_close(embeds, wanted, rtol=0, atol=1e-5)

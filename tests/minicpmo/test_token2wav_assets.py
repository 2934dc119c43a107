"""Loading the token2wav folder: both layouts, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch

from omni.errors import CheckpointError
from omni.minicpmo.model.hift import Hift
from omni.minicpmo.model.hift_causal import CausalHift
from omni.minicpmo.token2wav_assets import Layout, find_layout, flow_config, load_assets, read_yaml

CPU = torch.device("cpu")


@pytest.fixture
def folder(golden_dir: Path, tmp_path: Path) -> Path:
    """A copy of the 5-file layout."""
    return Path(shutil.copytree(golden_dir / "checkpoint/assets/token2wav", tmp_path / "five"))


@pytest.fixture
def causal_folder(folder: Path, golden_dir: Path) -> Path:
    """The 1.0.7 layout made of the golden pieces."""
    (folder / "hift.pt").rename(folder / "hift_original.pt")
    for name in ("config.yaml", "hift.pt"):
        shutil.copy(golden_dir / "checkpoint/assets/token2wav_causal" / name, folder)
    return folder


def test_the_five_file_layout_is_recognised_and_loaded(folder: Path) -> None:
    assets = load_assets(folder, CPU)

    assert assets.layout is Layout.HIFT
    assert isinstance(assets.vocoder, Hift)
    assert not any(p.requires_grad for p in assets.flow.parameters())


def test_the_causal_layout_is_recognised_and_loaded(causal_folder: Path) -> None:
    assets = load_assets(causal_folder, CPU)

    assert assets.layout is Layout.CAUSAL
    assert isinstance(assets.vocoder, CausalHift)


def test_the_older_weight_norm_names_give_the_same_vocoder(folder: Path) -> None:
    tensors = torch.load(folder / "hift.pt", weights_only=True)
    reference = load_assets(folder, CPU).vocoder.state_dict()
    older = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): value
        for name, value in tensors.items()
    }
    torch.save(older, folder / "hift.pt")

    loaded = load_assets(folder, CPU).vocoder.state_dict()

    assert all(torch.equal(loaded[name], value) for name, value in reference.items())


@pytest.mark.parametrize("name", ["flow.pt", "hift.pt", "campplus.onnx", "flow.yaml"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(CheckpointError, match=name):
        load_assets(folder, CPU)


def test_half_of_the_causal_layout_is_refused(causal_folder: Path) -> None:
    (causal_folder / "config.yaml").unlink()

    with pytest.raises(CheckpointError, match=r"missing config\.yaml"):
        find_layout(causal_folder)


def test_missing_left_over_and_misshapen_tensors_are_listed(folder: Path) -> None:
    tensors = torch.load(folder / "flow.pt", weights_only=True)
    del tensors["encoder_proj.bias"]
    tensors["surplus"] = torch.zeros(1)
    tensors["spk_embed_affine_layer.bias"] = torch.zeros(3)
    torch.save(tensors, folder / "flow.pt")

    with pytest.raises(CheckpointError) as caught:
        load_assets(folder, CPU)

    text = str(caught.value)
    assert "missing: encoder_proj.bias" in text
    assert "unknown: surplus" in text
    assert "spk_embed_affine_layer.bias (3,) instead of (80,)" in text
    assert "omni model fetch" in text


def test_the_wrong_vocoder_for_the_layout_is_refused(causal_folder: Path) -> None:
    shutil.copy(causal_folder / "hift_original.pt", causal_folder / "hift.pt")

    with pytest.raises(CheckpointError, match="of another shape"):
        load_assets(causal_folder, CPU)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_a_broken_or_hostile_weights_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / "flow.pt").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"flow\.pt"):
        load_assets(folder, CPU)


def test_a_truncated_weights_file_is_refused(folder: Path) -> None:
    path = folder / "hift.pt"
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(CheckpointError, match=r"hift\.pt"):
        load_assets(folder, CPU)


def test_yaml_tags_are_read_over_as_data(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("a: !new:os.system\n  command: [1, !name:x 2]\nb: !ref <a>\n")

    assert read_yaml(path) == {"a": {"command": [1, "2"]}, "b": "<a>"}


@pytest.mark.parametrize(
    ("before", "after"),
    [("up_stride: 2", "up_stride: 4"), ("depth: 2", "depth: deep"), ("  encoder:", "  decoded:")],
)
def test_a_flow_that_the_engine_does_not_know_is_refused(
    folder: Path, before: str, after: str
) -> None:
    path = folder / "flow.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))

    with pytest.raises(CheckpointError, match=r"flow\.yaml"):
        flow_config(path)


def test_a_causal_vocoder_of_another_rate_is_refused(causal_folder: Path) -> None:
    path = causal_folder / "config.yaml"
    path.write_text(path.read_text().replace("sampling_rate: 24000", "sampling_rate: 22050"))

    with pytest.raises(CheckpointError, match="sampling_rate is 22050"):
        load_assets(causal_folder, CPU)

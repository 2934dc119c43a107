"""`omni doctor` looks into the checkpoint that the settings name."""

from pathlib import Path

from omni.doctor_model import checkpoint_findings
from omni.finding import Finding
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint
from omni.settings import load_settings


def found(directory: Path) -> Finding:
    settings = load_settings(overrides=[f"model.model_path={directory}"])
    return {finding.subject: finding for finding in checkpoint_findings(settings)}["model"]


def test_a_whole_checkpoint_is_fine_and_a_broken_one_told(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    write_tiny_checkpoint(directory)
    whole = found(directory)

    (directory / "model-00001-of-00003.safetensors").unlink()
    broken = found(directory)

    assert (whole.mark, broken.mark) == ("ok", "!!")
    assert "model-00001-of-00003.safetensors" in broken.text
    assert "omni model check" in broken.text

"""What `omni doctor` says of a machine for the MiniCPM-o engine."""

import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from omni import doctor_model
from omni.doctor_model import (
    CALL_MIB,
    SHARED_MIB,
    checkpoint_findings,
    driver_lacks,
    gpu_findings,
    torch_cuda,
    torch_findings,
)
from omni.finding import Finding
from omni.gpus import Gpu
from omni.settings import Settings, load_settings

H100 = Gpu(index="0", name="H100", total_mib=81559, free_mib=81000, driver="580.159.04")


def settings(*overrides: str) -> Settings:
    return load_settings(overrides=["model.model_path=/a/model", *overrides])


def gpu(total_mib: int, free_mib: int | None = None) -> Gpu:
    free_mib = total_mib if free_mib is None else free_mib
    return Gpu(index="0", name="a GPU", total_mib=total_mib, free_mib=free_mib, driver="580.1")


def memory(of: Gpu, *overrides: str, is_running: bool = False) -> Finding:
    (finding,) = gpu_findings(settings(*overrides), [of], is_running)
    return finding


def by_subject(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


@pytest.fixture
def cuda_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch for CUDA 13 and a Triton, as far as they can be seen without importing them."""
    text = "__version__ = '2.11.0'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
    (tmp_path / "version.py").write_text(text)
    for name in ("torch", "triton"):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, origin=str(tmp_path / "__init__.py"))
        monkeypatch.setitem(sys.modules, name, module)
    return tmp_path


def test_a_large_card_holds_the_model_and_many_calls() -> None:
    finding = memory(H100)

    assert finding.mark == "ok" and "room for the model and 64 calls" in finding.text


def test_the_calls_that_fit_are_counted() -> None:
    finding = memory(gpu(SHARED_MIB + 10 * CALL_MIB))

    assert finding.mark == "ok" and "10 calls" in finding.text


def test_a_card_that_is_too_small_is_told_with_the_way_out() -> None:
    finding = memory(gpu(24_564))

    assert finding.mark == "!!"
    assert "too small" in finding.text and "pocket" in finding.text


def test_a_card_in_use_is_told_what_is_missing() -> None:
    finding = memory(gpu(81_559, free_mib=SHARED_MIB + CALL_MIB - 1000))

    assert finding.mark == "!!"
    assert "1000 are missing" in finding.text and "nvidia-smi" in finding.text


def test_more_slots_than_fit_name_their_settings() -> None:
    finding = memory(gpu(SHARED_MIB + 10 * CALL_MIB), "fabric.slots=11")

    assert finding.mark == "!!"
    assert "fabric.slots" in finding.text and "basic_window_high_tokens" in finding.text


def test_memory_that_this_omni_holds_is_not_missing() -> None:
    assert memory(gpu(81_559, free_mib=500), is_running=True).mark == "ok"


def test_a_model_without_any_card_is_a_fault() -> None:
    (finding,) = gpu_findings(settings(), [], is_running=False)

    assert finding.mark == "!!"


@pytest.mark.parametrize(
    ("driver", "cuda", "fits"),
    [("580", "13.0", True), ("575.57", "13.0", False), ("525.6", "12.8", True), ("?", "9", True)],
)
def test_the_driver_must_be_new_enough_for_torch(driver: str, cuda: str, fits: bool) -> None:
    told = driver_lacks(driver, cuda)

    assert (told == "") is fits
    assert fits or "update the NVIDIA driver" in told


def test_torch_is_asked_for_its_cuda_without_an_import(cuda_torch: Path) -> None:
    assert torch_cuda() == "13.0"

    (cuda_torch / "version.py").write_text("cuda: Optional[str] = None\n")
    assert torch_cuda() == ""


def test_an_old_driver_under_torch_is_a_fault(cuda_torch: Path) -> None:
    old = Gpu(index="0", name="a GPU", total_mib=81_559, free_mib=81_559, driver="550.54")

    found = by_subject(list(torch_findings(settings(), [old])))

    assert found["torch"].mark == "!!" and "550.54" in found["torch"].text


def test_a_missing_compiler_is_a_fault_with_its_way_out(
    cuda_torch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    found = by_subject(list(torch_findings(settings(), [H100])))
    without = by_subject(list(torch_findings(settings("model.attn_implementation=sdpa"), [H100])))

    assert found["kernels"].mark == "!!" and "apt-get install gcc" in found["kernels"].text
    assert without["kernels"].mark == "--"


def test_the_other_vocoder_needs_its_package(
    cuda_torch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str | None:
        return None if name == "minicpmo-utils" else "2.11.0"

    monkeypatch.setattr(doctor_model, "installed", installed)
    found = by_subject(list(torch_findings(settings("audio.vocoder=minicpmo-utils"), [H100])))

    assert found["vocoder"].mark == "!!" and "install gpu" in found["vocoder"].text


def test_a_model_that_must_be_fetched_needs_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    chosen = load_settings(
        overrides=["model.model_path=openbmb/MiniCPM-o-4_5", f"service.data_dir={tmp_path}/data"]
    )
    found = by_subject(list(checkpoint_findings(chosen)))["model"]

    monkeypatch.setattr(doctor_model, "CHECKPOINT_MIB", 10**12)
    short = by_subject(list(checkpoint_findings(chosen)))["model"]

    assert "omni model fetch openbmb/MiniCPM-o-4_5" in found.text
    assert short.mark == "!!" and "make room" in short.text

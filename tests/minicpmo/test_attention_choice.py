"""Each value of model.attn_implementation computes what it says, or stops the start."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from omni.errors import SettingsError
from omni.minicpmo.attention_choice import Wanted, choose_attention, why_no_kernels
from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.kernel_needs import find_compiler, lacks_for_kernels
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    yield
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with Triton, a compiler and Python's headers."""
    (tmp_path / "gcc").touch(0o755)
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    triton = types.ModuleType("triton")
    triton.__spec__ = SimpleNamespace(name="triton")  # type: ignore[assignment]  # to be found
    monkeypatch.setitem(sys.modules, "triton", triton)


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


def prefilled(model: MiniCpmO) -> torch.Tensor:
    """Return what the language model makes of two rows, one after another."""
    decoder, weight = model.config.llm.decoder, model.llm.lm_head.weight
    cache = PagedKVCache(
        num_layers=decoder.num_layers,
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        num_slots=2,
        num_pages=20,
        page_size=16,
        max_tokens=128,
        dtype=weight.dtype,
        device=weight.device,
    )
    outputs = []
    for counts in ((20, 7), (3, 5)):
        rows = [PrefillRow(slot=slot, num_tokens=count) for slot, count in enumerate(counts)]
        plan = cache.prefill_plan(rows)
        outputs.append(model.llm(model.llm.embed(torch.arange(sum(counts))), plan, cache.pool))
    return torch.cat(outputs)


@pytest.mark.parametrize("wanted", ["auto", "sdpa", "eager"])
def test_without_a_gpu_torch_computes_attention(wanted: Wanted) -> None:
    assert choose_attention(wanted, CPU) is False


def test_eager_leaves_torch_its_plain_way_alone_and_gives_the_same(model: MiniCpmO) -> None:
    choose_attention("sdpa", CPU)
    expected, had_flash = prefilled(model), torch.backends.cuda.flash_sdp_enabled()

    choose_attention("eager", CPU)
    result = prefilled(model)

    assert had_flash and not torch.backends.cuda.flash_sdp_enabled()
    assert not torch.backends.cuda.mem_efficient_sdp_enabled()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)  # sums in another order


def test_flash_attention_without_a_gpu_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="attn_implementation.*NVIDIA GPU.*'sdpa'"):
        choose_attention("flash_attention_2", CPU)


@pytest.mark.parametrize("wanted", ["auto", "flash_attention_2"])
def test_the_kernels_are_taken_where_they_can_run(
    wanted: Wanted, compiler: None, ampere: None
) -> None:
    assert choose_attention(wanted, GPU) is True


@pytest.mark.parametrize("wanted", ["sdpa", "eager"])
def test_torch_computes_attention_where_that_is_asked_for(
    wanted: Wanted, compiler: None, ampere: None
) -> None:
    assert choose_attention(wanted, GPU) is False


def test_a_gpu_without_a_compiler_falls_back_and_says_why(
    compiler: None,
    ampere: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert choose_attention("auto", GPU) is False
    assert "install gcc" in caplog.text
    with pytest.raises(SettingsError, match="install gcc"):
        choose_attention("flash_attention_2", GPU)


def test_an_old_gpu_has_no_kernels(compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))

    assert "7.5" in why_no_kernels(GPU) and "8.0" in why_no_kernels(GPU)


def test_missing_headers_of_python_are_named(compiler: None, tmp_path: Path) -> None:
    assert lacks_for_kernels() == ""
    (tmp_path / "Python.h").unlink()

    assert "python3-dev" in lacks_for_kernels()


def test_the_compiler_of_the_environment_comes_first(
    compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mycc").touch(0o755)
    monkeypatch.setenv("CC", "mycc")

    assert find_compiler() == str(tmp_path / "mycc")

"""The package minicpmo-utils as a vocoder: refused where it cannot be, the same sound where it is.

The comparison needs a CUDA device and the package: `pytest -m gpu`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import define, field

from omni.errors import SettingsError
from omni.minicpmo import token2wav_check
from omni.minicpmo.code_buffer import CHUNK_CODES, LOOKAHEAD_CODES, CodeChunk
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.random_weights import CpuDraw
from omni.minicpmo.tiny_assets import write_token2wav
from omni.minicpmo.token2wav import SlotChunk, Token2Wav
from omni.minicpmo.token2wav_assets import load_assets
from omni.minicpmo.token2wav_calls import Token2WavOptions
from omni.minicpmo.token2wav_check import Token2WavCheck, load_check
from omni.minicpmo.token2wav_table import FlowSizes, HiftSizes
from omni.minicpmo.voice import Voice

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
OPTIONS = Token2WavOptions(num_slots=2)
#: Float32 sums in another order; the pitch adds up what they differ by. It was 4e-3 on an H100
#: after five chunks, 1e-3 on a CPU after three.
SAME_SOUND = 1e-2


def voice(number: int, num_codes: int = 75) -> Voice:
    random = torch.Generator().manual_seed(number)
    return Voice(
        key=f"voice {number}",
        codes=torch.randint(0, 6561, (num_codes,), generator=random),
        mel=torch.randn(2 * num_codes, 80, generator=random) - 5,
        speaker=torch.randn(192, generator=random),
    )


def chunks(number: int, count: int) -> list[CodeChunk]:
    """Return a turn of *count* chunks; each but the last sees three codes of the next."""
    random = np.random.default_rng(number)
    consumed = CHUNK_CODES - LOOKAHEAD_CODES
    codes = random.integers(0, 6561, count * consumed + LOOKAHEAD_CODES).tolist()
    return [
        CodeChunk(tuple(codes[n * consumed : n * consumed + CHUNK_CODES]), is_last=n == count - 1)
        for n in range(count)
    ]


def test_without_a_gpu_it_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="NVIDIA GPU.*'native'"):
        load_check(tmp_path, OPTIONS, CPU)


def test_without_the_package_it_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token2wav_check, "_PACKAGE", "minicpmo-utils-that-nobody-has")

    with pytest.raises(SettingsError, match="bin/omni install gpu.*'native'"):
        load_check(tmp_path, OPTIONS, GPU)


def test_a_package_that_cannot_be_imported_is_told_with_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token2wav_check, "version", lambda name: "1.0.7")
    (tmp_path / "stepaudio2").mkdir()
    (tmp_path / "stepaudio2" / "__init__.py").write_text("import nothing_like_it\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stepaudio2", raising=False)

    with pytest.raises(SettingsError, match="nothing_like_it.*install gpu"):
        load_check(tmp_path, OPTIONS, GPU)


def test_another_layout_names_the_release_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise FileNotFoundError("config.yaml")

    sizes = (FlowSizes(dit_depth=1, num_blocks=1, num_up_blocks=1), HiftSizes(base_channels=32))
    write_token2wav(tmp_path / "t", CpuDraw(0), *sizes, "five-file")
    monkeypatch.setattr(token2wav_check, "_import_package", lambda: (refuse, "1.0.7"))

    with pytest.raises(SettingsError, match="config.yaml.*minicpmo-utils==1.0.6"):
        load_check(tmp_path / "t", OPTIONS, GPU)


@define(slots=False)
class OneStream:
    """Stands for the package: one stream, whose sound tells all that was streamed before."""

    cache: Any = None
    stream_cache: Any = None
    hift_cache_dict: Any = field(factory=dict)
    buffer: torch.Tensor = field(factory=lambda: torch.zeros(1))

    def _prepare_prompt(self, key: str) -> Any:
        raise AssertionError("the analysis is ours")

    def set_stream_cache(self, key: str) -> Any:
        self.cache = self._prepare_prompt(key)
        self.buffer[:] = float(self.cache[0].sum())
        return {"sum": self.buffer}, {"chunks": 0}

    def stream(
        self, codes: Sequence[int], prompt_wav: str, last_chunk: bool, return_waveform: bool
    ) -> Any:
        self.buffer[:] = self.stream_cache["sum"] + sum(codes)
        self.stream_cache = {"sum": self.buffer}  # the package's caches are views of its buffers
        self.hift_cache_dict = {"chunks": self.hift_cache_dict["chunks"] + 1}
        wave = [float(self.buffer), self.hift_cache_dict["chunks"], float(last_chunk)]
        return np.array([wave], dtype=np.float32)


def test_slots_share_one_stream_and_do_not_hear_each_other() -> None:
    check = Token2WavCheck(OneStream(), OPTIONS, CPU)
    first, second = voice(1, num_codes=2), voice(2, num_codes=3)
    check.start_turn(0, first)
    check.start_turn(1, second)
    starts = [float(each.codes.sum()) for each in (first, second)]

    waves = [
        check.step([SlotChunk(slot, CodeChunk((slot + 1, 1), is_last=n == 1)) for slot in (0, 1)])
        for n in range(2)
    ]

    assert [sound.samples.tolist() for sound in waves[0]] == [
        [starts[0] + 2, 1, 0], [starts[1] + 3, 1, 0]
    ]
    assert [sound.samples.tolist() for sound in waves[1]] == [
        [starts[0] + 4, 2, 1], [starts[1] + 6, 2, 1]
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default")  # what the package's own imports say
def test_the_package_makes_the_same_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the published size with random weights, in the layout that release 1.0.7 reads."""
    package = pytest.importorskip("stepaudio2.token2wav")
    # The stand-in for the tokenizer of voices is none that the package can convert; it is not used.
    monkeypatch.setattr(package.s3tokenizer, "load_model", lambda path: torch.nn.Identity())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    write_token2wav(tmp_path / "t", CpuDraw(0), FlowSizes(), HiftSizes(), "causal")
    options = Token2WavOptions(num_slots=2, trim=CacheTrim.V107)
    ours = Token2Wav(load_assets(tmp_path / "t", GPU), options)
    theirs = load_check(tmp_path / "t", options, GPU)
    turns = [chunks(number, count=5) for number in (1, 2)]

    sounds: list[list[torch.Tensor]] = []
    for vocoder in (ours, theirs):
        for slot in (0, 1):
            vocoder.start_turn(slot, voice(slot))
        made: list[list[torch.Tensor]] = [[], []]
        for pair in zip(*turns, strict=True):
            step = [SlotChunk(slot, chunk) for slot, chunk in enumerate(pair)]
            for sound in vocoder.step(step):
                made[sound.slot].append(sound.samples.cpu().clone())
        sounds.append([torch.cat(parts) for parts in made])

    for our, their in zip(*sounds, strict=True):
        assert our.shape == their.shape
        print("difference", float((our - their).abs().max()), "of", float(their.abs().max()))
        assert float(their.abs().max()) > 10 * SAME_SOUND
        torch.testing.assert_close(our, their, atol=SAME_SOUND, rtol=0)

"""Times token2wav by stage and batch size, eager and as CUDA graphs.

Random weights at the published size, every row in mid-turn with a full cache: 28 codes in, 1 s of
sound out. Run it from the repository: python -m bench.engine_vocoder. `--tiny` shrinks everything,
to try it on a CPU.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attrs import asdict, frozen
from torch import Tensor

from omni.minicpmo.code_buffer import CodeChunk
from omni.minicpmo.model.dit import DiTConfig
from omni.minicpmo.model.flow import ChunkBatch, Flow, FlowConfig
from omni.minicpmo.model.flow_encoder import EncoderConfig
from omni.minicpmo.model.hift import Hift
from omni.minicpmo.model.hift_causal import CausalHift
from omni.minicpmo.model.hift_decoder import HiftConfig
from omni.minicpmo.token2wav import SlotChunk, Token2Wav
from omni.minicpmo.token2wav_assets import Layout, Token2WavAssets
from omni.minicpmo.token2wav_calls import CodeRow, Token2WavCalls, Token2WavOptions
from omni.minicpmo.token2wav_graphs import GraphedCall, GraphMemory
from omni.minicpmo.voice import Voice

PUBLISHED = FlowConfig(
    num_codes=6561,
    mel_bins=80,
    speaker_dim=192,
    guidance=0.7,
    encoder=EncoderConfig(hidden=512, heads=8, ffn=2048, token_layers=6, mel_layers=4),
    dit=DiTConfig(hidden=512, depth=16, heads=8, head_dim=64, mlp_hidden=2048, mel_bins=80),
)
TINY = FlowConfig(
    num_codes=6561,
    mel_bins=80,
    speaker_dim=192,
    guidance=0.7,
    encoder=EncoderConfig(hidden=64, heads=2, ffn=128, token_layers=2, mel_layers=2),
    dit=DiTConfig(hidden=64, depth=2, heads=2, head_dim=32, mlp_hidden=256, mel_bins=80),
)
SEED = 20451
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@frozen
class Timing:
    """Milliseconds of one stage at one batch size."""

    stage: str
    mode: str
    batch: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def main(argv: list[str] | None = None) -> None:
    """Run all stages, print the table, write the JSON."""
    args = parse_args(argv)
    device = torch.device(args.device)
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.allow_tf32 = args.tf32
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every length of keys
    timings: list[Timing] = []
    state_mb: dict[int, float] = {}
    with torch.inference_mode():
        for batch in args.batch:
            bench = Bench(args, batch, device)
            of_batch = bench.run(args.repeats)
            state_mb[batch] = round(bench.token2wav.calls.num_state_bytes() / 1e6, 1)
            print_rows(of_batch)
            timings += of_batch
    report = {
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "machine": machine(device),
        "state_mb": state_mb,
        "timings": [asdict(each) for each in timings],
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.json}")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--tiny", action="store_true", help="tiny sizes")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--steps", type=int, default=5, help="Euler steps")
    parser.add_argument("--voice-codes", type=int, default=150, help="25 codes are 1 s")
    parser.add_argument("--vocoder", choices=["hift", "causal"], default="hift")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="weights of the flow")
    parser.add_argument("--cache-dtype", choices=DTYPES, default="float16", help="its caches")
    parser.add_argument("--tf32", action="store_true", help="TF32 in float32 matrix products")
    parser.add_argument("--json", type=Path, default=Path("tmp/engine_vocoder.json"))
    return parser.parse_args(argv)


class Bench:
    """One batch size: all rows started, warmed up until their caches are full."""

    def __init__(self, args: argparse.Namespace, batch: int, device: torch.device) -> None:
        self.batch, self.device = batch, device
        self.modes = ("eager", "graph") if device.type == "cuda" else ("eager",)
        voice_codes = min(args.voice_codes, 20) if args.tiny else args.voice_codes
        assets = random_assets(args.tiny, args.vocoder, DTYPES[args.dtype], device)
        options = Token2WavOptions(
            num_slots=batch,
            num_steps=args.steps,
            cache_dtype=DTYPES[args.cache_dtype],
            max_voice_codes=voice_codes,
            voice_room_codes=voice_codes,
        )
        self.token2wav = Token2Wav(assets, options)
        self.num_keys = self.token2wav.num_keys(voice_codes)
        voice = random_voice(voice_codes)
        codes = tuple(torch.randint(6561, (28,)).tolist())
        self.chunks = [SlotChunk(slot, CodeChunk(codes, False)) for slot in range(batch)]
        for slot in range(batch):
            self.token2wav.start_turn(slot, voice)
        for _ in range(3):
            self.token2wav.step(self.chunks)
        self.stages = self._stages(self.token2wav.calls)

    def run(self, repeats: int) -> list[Timing]:
        """Return the timings of every stage in every mode."""
        timings = []
        for name, call in self.stages.items():
            for mode in self.modes:
                timed = call if mode == "eager" else GraphedCall(call, (), GraphMemory())
                timings.append(self._timing(name, mode, timed, repeats))
        timings += [self._whole_step(mode, repeats) for mode in self.modes]
        return timings

    def _whole_step(self, mode: str, repeats: int) -> Timing:
        """Time what the engine calls, with its inputs built and copied each time."""
        if mode == "graph":
            self.token2wav.capture([self.batch], self.token2wav.options.max_voice_codes)

        def call() -> tuple[Tensor, ...]:
            return (self.token2wav.step(self.chunks)[0].samples,)

        return self._timing("whole step, host included", mode, call, repeats)

    def _stages(self, calls: Token2WavCalls) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        solver, state = calls.solver, calls.flow_state
        rows = [CodeRow(each.slot, each.chunk.codes, False) for each in self.chunks]
        batch = ChunkBatch(*calls.flow_inputs(rows, self.batch, 25))
        plan = solver.plan(state, batch, self.num_keys)
        mu = solver.encode(state, batch, plan)
        condition = solver.condition(state, plan, mu)
        conv = state.dit_conv[0].index_select(1, plan.rows.read)
        view, pools = plan.of_dit.doubled(), state.dit_pools[0]
        pools = pools.view(pools.shape[0], 2 * pools.shape[1], -1)
        estimator, x = solver.flow.estimator, torch.randn_like(mu)
        mel, frames = solver.step(state, batch, self.num_keys)
        steady = calls.vocoder_call(True)
        general = calls.vocoder_call(False)
        inputs = (batch.slots, mel, frames, batch.is_last, batch.exec_mask)
        stages: dict[str, Callable[[], tuple[Tensor, ...]]] = {
            "flow encoder": lambda: (
                solver.encode(state, batch, solver.plan(state, batch, self.num_keys)),
            ),
            "DiT, one Euler step": lambda: estimator(
                x, condition, solver.modulations[0], conv, pools, view
            ),
            "flow, whole": lambda: solver.step(state, batch, self.num_keys),
        }
        if calls.has_steady_rows:
            stages["vocoder, mid-turn"] = lambda: steady(*inputs)
        stages["vocoder, any row"] = lambda: general(*inputs)
        return stages

    def _timing(
        self, stage: str, mode: str, call: Callable[[], tuple[Tensor, ...]], repeats: int
    ) -> Timing:
        for _ in range(3):
            call()
        samples = sorted(self._milliseconds(call) for _ in range(repeats))
        p50, p95, p99 = (samples[min(repeats - 1, int(q * repeats))] for q in (0.5, 0.95, 0.99))
        return Timing(stage, mode, self.batch, p50, p95, p99)

    def _milliseconds(self, call: Callable[[], tuple[Tensor, ...]]) -> float:
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return (time.perf_counter() - start) * 1e3

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def random_assets(
    tiny: bool, vocoder: str, dtype: torch.dtype, device: torch.device
) -> Token2WavAssets:
    """Return modules with torch's default random weights."""
    sizes = HiftConfig(
        mel_bins=80, base_channels=32 if tiny else 512, f0_channels=32 if tiny else 512
    )
    with device:
        flow = Flow(TINY if tiny else PUBLISHED).to(dtype)
        voice = Hift(sizes) if vocoder == "hift" else CausalHift(sizes)
    return Token2WavAssets(
        layout=Layout.HIFT if vocoder == "hift" else Layout.CAUSAL,
        flow=flow.eval().to(device),
        vocoder=voice.eval().to(device),
        speech_tokenizer=Path(),
        speaker_encoder=Path(),
    )


def random_voice(num_codes: int) -> Voice:
    return Voice(
        key="random",
        codes=torch.randint(6561, (num_codes,)),
        mel=torch.randn(2 * num_codes, 80),
        speaker=torch.randn(192),
    )


def machine(device: torch.device) -> dict[str, str | int]:
    """Say what this ran on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "host": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "commit": commit or "unknown",
    }


def print_rows(timings: list[Timing]) -> None:
    print(f"{'stage':<28}{'mode':<8}{'batch':>6}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}")
    for each in timings:
        figures = f"{each.p50_ms:>10.2f}{each.p95_ms:>10.2f}{each.p99_ms:>10.2f}"
        print(f"{each.stage:<28}{each.mode:<8}{each.batch:>6}{figures}")


if __name__ == "__main__":
    main()

"""What only a CUDA device can show: the kernel, graphs, staged loading, agreement with the CPU."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from omni.minicpmo.checkpoint import MiniCpmO, load_checkpoint
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.graphs import GraphPool, Step, StepGraphs
from omni.minicpmo.hearing import Hearing
from omni.minicpmo.kv_cache import PagedKVCache, PrefillRow, StepShape
from omni.minicpmo.model.config import DecoderConfig
from omni.minicpmo.model.layers import Decoder, Linear, gated_product, product
from omni.minicpmo.seeing import Seeing
from omni.minicpmo.speech_codes import SpeechCall, SpeechCodes, SpeechMode

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def on_gpu(checkpoint_dir: Path) -> MiniCpmO:
    return load_checkpoint(checkpoint_dir, torch.device("cuda"), torch.float32)[0]


def cache_of(model: MiniCpmO, uses_kernel: bool = True) -> PagedKVCache:
    decoder = model.llm.config.decoder
    return PagedKVCache(
        num_layers=decoder.num_layers,
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        num_slots=4,
        num_pages=80,
        page_size=16,
        max_tokens=400,
        dtype=torch.float32,
        device=torch.device("cuda"),
        uses_kernel=uses_kernel,
    )


def embeds(model: MiniCpmO, count: int, seed: int) -> torch.Tensor:
    size = model.llm.config.decoder.hidden_size
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).cuda()


def test_staged_loading_gives_the_weights_of_the_cpu(model, on_gpu):
    theirs = dict(on_gpu.checkpoint_tensors())
    for name, tensor in model.checkpoint_tensors():
        # Exact, but for the head: its norm is summed in another order.
        torch.testing.assert_close(tensor, theirs[name].cpu(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (12, 12, 12, 12), (3, 70, 1, 33)])
def test_the_kernel_computes_what_plain_torch_computes(on_gpu, lengths):
    results = []
    for uses_kernel in (True, False):
        cache = cache_of(on_gpu, uses_kernel)
        cache.pool[:, :, 1:] = torch.nan  # as if a broken session had held these pages
        outputs = []
        for seed in range(3):
            rows = [PrefillRow(slot=s, num_tokens=n) for s, n in enumerate(lengths)]
            plan = cache.prefill_plan(rows)
            outputs.append(on_gpu.llm(embeds(on_gpu, sum(lengths), seed), plan, cache.pool))
        results.append(torch.cat(outputs))

    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 16, 17])
@pytest.mark.parametrize("size", [768, 4096])
def test_products_of_few_rows_are_what_plain_torch_computes(rows, size):
    """bf16 keeps 8 bits: a sum of products of it differs by its last rounding, 2^-9 on average."""
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, size).cuda(), torch.randn(2 * 500, size).cuda() / size**0.5
    x, weight = x.bfloat16(), weight.bfloat16()
    layer = Linear(size, 1000, bias=False).cuda().bfloat16()
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)

    for mine, plain in (
        (product(x, layer, True, torch.float32), product(x.float(), layer.float(), False)),
        (gated_product(x, layer.bfloat16(), True), gated_product(x.float(), layer.float(), False)),
    ):
        error = (mine.float() - plain).norm() / plain.norm()
        assert error < 4e-3


def test_a_block_of_one_row_is_one_of_two_equal_rows():
    """One row takes kernels of its own, with norms and sums inside."""
    config = DecoderConfig(
        hidden_size=256,
        intermediate_size=512,
        num_layers=2,
        num_heads=8,
        num_kv_heads=2,
        head_dim=32,
        rms_norm_eps=1e-6,
        rope_theta=1e4,
        has_qk_norm=True,
    )
    torch.manual_seed(1)
    decoder = Decoder(config).cuda().bfloat16().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.05)
    cache = PagedKVCache(
        num_layers=2,
        num_kv_heads=2,
        head_dim=32,
        num_slots=3,
        num_pages=20,
        page_size=16,
        max_tokens=64,
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
    )
    for seed in range(20):
        x = torch.randn(1, 256, generator=torch.Generator().manual_seed(seed)).cuda().bfloat16()

        alone = decoder(x, cache.decode_plan([0], [True]), cache.pool)
        pair = decoder(x.repeat(2, 1), cache.decode_plan([1, 2], [True, True]), cache.pool)

        torch.testing.assert_close(alone[0], pair[1], rtol=0.05, atol=0.05)


def test_a_captured_decode_step_equals_its_eager_twin(on_gpu):
    caches = [cache_of(on_gpu), cache_of(on_gpu)]
    for cache in caches:
        rows = [PrefillRow(slot=s, num_tokens=20 + s) for s in range(4)]
        on_gpu.llm(embeds(on_gpu, 86, 0), cache.prefill_plan(rows), cache.pool)
    captured, eager = caches

    def call(step: Step) -> tuple[torch.Tensor, ...]:
        hidden = on_gpu.llm(step.tensors["embeds"], step.plans[0], captured.pool)
        return (on_gpu.llm.logits(hidden),)

    def static(shape: StepShape) -> dict[str, torch.Tensor]:
        return {"embeds": embeds(on_gpu, shape.num_rows, 1)}

    graphs = StepGraphs(call, captured, lambda _: {}, GraphPool(torch.device("cuda")), static)
    shape = StepShape(4, num_pages=8)
    graphs.record([shape])

    for step in range(25):
        slots = [row for row in range(4) if (row + step) % 3]
        new = embeds(on_gpu, len(slots), 10 + step)
        graphs.tensor(shape, "embeds")[: len(slots)].copy_(new)
        spans = captured.spans([PrefillRow(slot, 1) for slot in slots])
        captured.reserve(spans)
        (found,) = graphs.run(shape, spans, lambda host: None)
        plan = eager.decode_plan(slots, [True] * len(slots))
        wanted = on_gpu.llm.logits(on_gpu.llm(new, plan, eager.pool))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_graphs_of_two_pools_run_at_the_same_time_without_touching_each_other():
    """Long sums of few outputs: cuBLAS splits them, and adds the parts up in its workspace."""
    device = torch.device("cuda")
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    calls, inputs, weights, wanted = [], [], [], []
    for number in range(len(streams)):
        generator = torch.Generator(device).manual_seed(number)
        x, weight = (torch.randn(64, 8192, device=device, generator=generator) for _ in range(2))

        def products(x: torch.Tensor, weight: torch.Tensor = weight) -> tuple[torch.Tensor, ...]:
            return tuple(x[: 8 * rows] @ weight.T for rows in range(1, 9))

        calls.append(GraphPool(device).record(products, (x,)))
        inputs.append(x)
        weights.append(weight)  # a graph reads it where it lies, and keeps nothing alive
        wanted.append([each.clone() for each in products(x)])
    torch.cuda.synchronize()

    for _ in range(200):
        found = []
        for stream, call, x in zip(streams, calls, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append([each.clone() for each in call(x)])
        torch.cuda.synchronize()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-2)


def test_recorded_speech_is_that_of_single_steps(on_gpu, expected):
    """Eight codes a replay, three rows in a graph of four, real draws, ends in mid-replay."""
    tensors = expected("h_tts").tensors
    said = []
    for is_recorded in (True, False):
        codes = SpeechCodes(on_gpu.tts, num_slots=3, num_pages=60, page_size=16)
        if is_recorded:
            codes.record([4], max_tokens=256)
        for slot in range(3):
            chance = Random(slot).random
            codes.open_turn(slot, SpeechMode.HALF_DUPLEX, CodeSampling(), chance)
        calls = [
            SpeechCall(
                slot=slot,
                text_ids=tensors["text_ids"][slot : slot + 4].cuda(),
                hidden=tensors["hidden"][slot : slot + 4].cuda(),
                is_turn_end=True,
                min_codes=3,
                max_codes=30 + slot,
            )
            for slot in range(3)
        ]
        codes.start(calls)
        while codes.speaking:
            codes.step()
        said.append([codes.state(slot).codes for slot in range(3)])
        codes.cache.table.check_integrity()

    assert said[0] == said[1]


def test_hearing_on_the_gpu_recorded_or_not_equals_hearing_on_the_cpu(model, on_gpu):
    sound = np.random.default_rng(3).normal(0, 0.1, 16000 * 6).astype(np.float32)
    ears = [Hearing(m.audio, num_slots=2) for m in (model, on_gpu, on_gpu)]
    ears[2].record([4])
    for unit in range(6):
        heard = []
        for hearing in ears:
            for slot in range(2):
                hearing.push(slot, sound[16000 * unit :][:16000] * (slot + 1) / 2)
            heard.append(hearing.step([0, 1]).cpu())
        for other in heard[1:]:
            torch.testing.assert_close(other, heard[0], rtol=0, atol=1e-3)


def test_recorded_pictures_are_those_of_the_eager_twin(on_gpu):
    recorded, eager = (Seeing(on_gpu.vision, GraphPool(torch.device("cuda"))) for _ in range(2))
    recorded.record()
    grids = [(32, 32), (28, 37), (32, 32), (32, 32)]
    for seed in range(2):
        random = np.random.default_rng(seed)
        patches = [random.integers(0, 256, (a * b, 588), dtype=np.uint8) for a, b in grids]
        twins = [seeing.see(patches, grids) for seeing in (recorded, eager)]
        torch.testing.assert_close(*twins, rtol=0, atol=1e-4)


def test_greedy_speech_on_the_gpu_equals_that_on_the_cpu(model, on_gpu, expected):
    tensors = expected("h_tts").tensors
    said = []
    for each in (model, on_gpu):
        device = each.tts.head.weight.device
        codes = SpeechCodes(each.tts, num_slots=1, num_pages=30, page_size=16)
        codes.open_turn(0, SpeechMode.DUPLEX, CodeSampling(is_greedy=True), lambda: 0.0)
        text_ids, hidden = (tensors[n][15:20].to(device) for n in ("text_ids", "hidden"))
        codes.start([SpeechCall(slot=0, text_ids=text_ids, hidden=hidden, is_turn_end=False)])
        while codes.speaking:
            codes.step()
        said.append(codes.state(0).codes)

    assert said[0] == said[1]
    assert len(said[0]) == 25

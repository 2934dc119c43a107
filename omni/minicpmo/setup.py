"""From settings to a loaded engine: the checkpoint on its device, caches sized by free memory."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from attrs import evolve, field, frozen

from omni.audio import INPUT_HZ
from omni.errors import SettingsError
from omni.minicpmo.attention_choice import choose_attention
from omni.minicpmo.checkpoint import MiniCpmO, load_checkpoint
from omni.minicpmo.compiled import compile_blocks, keep_compiled
from omni.minicpmo.fetch import resolve_model
from omni.minicpmo.graphs import BATCH_SIZES
from omni.minicpmo.load_times import Stage, Stopwatch
from omni.minicpmo.loading import Parts, Source, load_parts
from omni.minicpmo.model.attention import forbid_cudnn_attention
from omni.minicpmo.model.audio_encoder import STREAM_FRAMES
from omni.minicpmo.model.flow_cache import CacheTrim
from omni.minicpmo.prompt import Prompts
from omni.minicpmo.runner import CacheSizes, Runner
from omni.minicpmo.sampling import TextSampler
from omni.minicpmo.scheduler import STEP_LIMITS, Phase
from omni.minicpmo.session import Surroundings, WindowOptions
from omni.minicpmo.thinking import Choose
from omni.minicpmo.token2wav import Token2Wav
from omni.minicpmo.token2wav_assets import Token2WavAssets
from omni.minicpmo.token2wav_calls import Token2WavOptions
from omni.minicpmo.token2wav_check import MAX_SLOTS as MAX_CHECK_SLOTS
from omni.minicpmo.token2wav_check import load_check
from omni.minicpmo.vocoding import Vocoder
from omni.minicpmo.voice import CODES_PER_S
from omni.settings import DuplexSettings, Settings

log = logging.getLogger(__name__)

MAX_SLOTS = 64
_CPU_SLOTS = 8
_CPU_TOKENS_A_SLOT = 4096
#: Kept for prompts and units with many pictures; 9 slices and their source are 660 tokens.
_COMMON_TOKENS = 4096
#: 30 s of speech by 25 codes a second and what they are conditioned on; longer turns borrow.
_SPEECH_TOKENS_A_SLOT = 1200
#: Recordings of 10 s that are in use at once, each 164 MB at the published size; sessions that
#: speak with the same recording share it.
_VOICES_IN_USE = 8
#: Left free on a GPU: activations of the largest batches, cuBLAS workspaces, graphs. With 6 GiB an
#: H100 of 64 sessions had 2.4 GB left when all graphs were recorded and all sessions had spoken.
_SPARE_BYTES = 8 << 30
#: A call that remembers less than this forgets what it was asked a minute ago.
_LEAST_KEPT_TOKENS = 1000


@frozen(kw_only=True)
class EngineOptions:
    """What tests and benches choose and settings do not.

    window: None: as the settings say. device, dtype: None: the GPU if there is one; bfloat16
    there, float32 on a CPU.
    batch_sizes: for which steps are recorded; None: the usual ones on a GPU, none on a CPU.
    kv_tokens: room for all conversations together; None: what the memory holds.
    """

    trim: CacheTrim = CacheTrim.FIXED
    window: WindowOptions | None = None
    limits: Mapping[Phase, int] = field(factory=lambda: dict(STEP_LIMITS))
    now_s: Callable[[], float] = time.perf_counter
    choose: Choose | None = None
    kv_tokens: int | None = None
    batch_sizes: tuple[int, ...] | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None


@frozen(kw_only=True, eq=False)
class Loaded:
    """A model that is ready. capture_s: how long its graphs took to record; stages: the rest."""

    name: str
    runner: Runner
    around: Surroundings
    capture_s: float = 0.0
    stages: tuple[Stage, ...] = ()


def load_model(settings: Settings, options: EngineOptions) -> Loaded:
    """Load what the settings name. Raises: CheckpointError, SettingsError."""
    watch = Stopwatch()
    keep_compiled(Path(settings.service.data_dir))
    directory = resolve_model(settings.model.model_path, Path(settings.service.data_dir))
    with watch.stage("driver"):
        device = options.device or default_device()
    dtype = options.dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    pt_path = Path(settings.model.pt_path) if settings.model.pt_path else None
    source = Source(
        directory=directory,
        device=device,
        dtype=dtype,
        ref_audio_path=settings.audio.ref_audio_path,
    )
    parts = load_parts(
        source, lambda: load_checkpoint(directory, device, dtype, pt_path)[0], watch
    )
    return assemble(settings, options, source, parts, watch)


def window_of(settings: DuplexSettings) -> WindowOptions:
    """Return the window that the settings ask for. Raises: SettingsError."""
    high, low = settings.basic_window_high_tokens, settings.basic_window_low_tokens
    if low > high:
        raise SettingsError(
            f"duplex.basic_window_low_tokens = {low} is above duplex.basic_window_high_tokens = "
            f"{high}; it must be at most that"
        )
    return WindowOptions(
        mode=settings.sliding_window_mode,
        high_tokens=high,
        low_tokens=low,
        max_units=settings.context_max_units,
        max_previous_tokens=settings.context_previous_max_tokens,
    )


def default_device() -> torch.device:
    """Return the first GPU that this process sees, or the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _choose_arithmetic(settings: Settings, device: torch.device, dtype: torch.dtype) -> None:
    """Say to torch, for the whole process, how it may compute in float32."""
    if device.type != "cuda":
        return
    forbid_cudnn_attention()
    # The vocoder is float32 beside a bfloat16 model. TF32 takes a third off the flow (3.8 ms a
    # step instead of 5.6 on an H100) and rounds as float16 does, in which it is published, too.
    torch.backends.cuda.matmul.allow_tf32 = dtype is not torch.float32
    torch.backends.cudnn.allow_tf32 = dtype is not torch.float32


def assemble(
    settings: Settings, options: EngineOptions, source: Source, parts: Parts, watch: Stopwatch
) -> Loaded:
    """Return the *parts*, which are in memory, with their caches. Raises: SettingsError."""
    model, assets = parts.model, parts.assets
    settings = _with_slots_of_vocoder(settings)
    _choose_arithmetic(settings, source.device, source.dtype)
    if settings.service.compile:
        num_layers = compile_blocks((model.vision, assets.flow, assets.vocoder))
        log.info("service.compile: %d layers are compiled at their first run", num_layers)
    with watch.stage("caches"):
        runner = _runner(settings, options, source, parts)
    voice = parts.default_voice
    capture_s = _record(runner, options.batch_sizes, CODES_PER_S * len(voice) // INPUT_HZ)
    around = Surroundings(
        tokenizer=parts.tokenizer,
        prompts=Prompts(parts.tokenizer),
        voices=parts.voices,
        default_voice=voice,
        now_s=options.now_s,
        window=options.window or window_of(settings.duplex),
        max_tokens=runner.sizes.max_tokens,
        uses_image_id=model.config.use_image_id,
    )
    name = f"MiniCPM-o 4.5 ({source.directory.name})"
    stages = tuple(watch.stages)
    return Loaded(name=name, runner=runner, around=around, capture_s=capture_s, stages=stages)


def _runner(
    settings: Settings, options: EngineOptions, source: Source, parts: Parts
) -> Runner:
    """Return the models with caches for as many sessions as fit."""
    model, assets, device = parts.model, parts.assets, source.device
    vocoder = Token2WavOptions(
        num_slots=1,
        trim=options.trim,
        cache_dtype=source.flow_dtype,
        voice_room_codes=_VOICES_IN_USE * Token2WavOptions(num_slots=1).max_voice_codes,
    )
    if device.type == "cuda":
        sizes = _sizes_on_gpu(settings, options, model, _measured(assets, vocoder))
    else:
        sizes = _sizes_on_cpu(settings, options, model)
    vocoder = evolve(vocoder, num_slots=sizes.num_slots)
    token2wav = _vocoder(settings, assets, source.directory, vocoder)
    sampler = TextSampler(parts.tokenizer, model.config.llm.vocab_size, device)
    uses_kernel = choose_attention(settings.model.attn_implementation, device)
    return Runner(model, token2wav, sampler, sizes, options.choose, uses_kernel)


def _with_slots_of_vocoder(settings: Settings) -> Settings:
    """Return *settings* with no more slots than the vocoder serves."""
    if settings.audio.vocoder == "native":
        return settings
    slots = min(settings.fabric.slots or MAX_CHECK_SLOTS, MAX_CHECK_SLOTS)
    return evolve(settings, fabric=evolve(settings.fabric, slots=slots))


def _vocoder(
    settings: Settings, assets: Token2WavAssets, directory: Path, options: Token2WavOptions
) -> Vocoder:
    if settings.audio.chat_vocoder != "token2wav":
        raise SettingsError(
            f"audio.chat_vocoder = {settings.audio.chat_vocoder!r}: this engine speaks with "
            "token2wav in every mode; set it to 'token2wav'"
        )
    if settings.audio.vocoder == "native":
        return Token2Wav(assets, options)
    device = assets.flow.encoder_proj.weight.device
    return load_check(directory / "assets" / "token2wav", options, device)


def _record(runner: Runner, wanted: tuple[int, ...] | None, voice_codes: int) -> float:
    """Record the graphs of the batch sizes that can occur; return how long that took."""
    has_gpu = runner.device.type == "cuda"
    sizes = (BATCH_SIZES if has_gpu else ()) if wanted is None else wanted
    num_slots = runner.sizes.num_slots
    fitting = sorted({min(size, num_slots) for size in sizes})
    if not fitting:
        return 0.0
    started_s = time.monotonic()
    runner.record(fitting, voice_codes)
    took_s = time.monotonic() - started_s
    log.info("recorded steps of %s rows in %.1f s", fitting, took_s)
    return took_s


@frozen(kw_only=True)
class Memory:
    """What a device has free, and what a session takes of it, in bytes.

    slot: of one session, beside its language-model cache. token: of that cache, for each token.
    """

    free: int
    slot: int
    token: int


def fit(memory: Memory, kept_tokens: int, wanted: int) -> tuple[int, int]:
    """Return how many sessions fit, each with *kept_tokens*, and the tokens of all together.

    wanted: at most so many sessions; 0: as many as fit. What is left over serves long prompts.
    Raises: SettingsError, when not even one session fits.
    """
    each = memory.slot + memory.token * kept_tokens
    if memory.free < each:
        raise SettingsError(
            f"the GPU lacks {(each - memory.free) / 1e9:.1f} GB for one session beside the weights:"
            f" {_less_kept(memory)}end other programs on it (nvidia-smi shows them), choose another"
            " with --gpus, or take one with more memory (32 GB hold the model and a session)"
        )
    num_slots = min(memory.free // each, wanted or MAX_SLOTS, MAX_SLOTS)
    return num_slots, (memory.free - num_slots * memory.slot) // memory.token


def _less_kept(memory: Memory) -> str:
    """Return the settings with which a session would fit, if a shorter memory is enough."""
    affordable = (memory.free - memory.slot) // memory.token
    if affordable < _LEAST_KEPT_TOKENS:
        return ""
    return (
        "set duplex.basic_window_high_tokens and duplex.basic_window_low_tokens to at most "
        f"{affordable} (a call then forgets earlier), "
    )


def _sizes_on_cpu(settings: Settings, options: EngineOptions, model: MiniCpmO) -> CacheSizes:
    longest = model.config.llm.max_positions
    num_slots = min(settings.fabric.slots or _CPU_SLOTS, MAX_SLOTS)
    tokens = options.kv_tokens or max(longest, num_slots * _CPU_TOKENS_A_SLOT)
    return CacheSizes(
        num_slots=num_slots,
        kv_tokens=tokens,
        max_tokens=min(longest, tokens),
        speech_tokens=num_slots * _SPEECH_TOKENS_A_SLOT,
    )


def _sizes_on_gpu(
    settings: Settings, options: EngineOptions, model: MiniCpmO, vocoder: tuple[int, int]
) -> CacheSizes:
    """vocoder: bytes of its state that all sessions share, and of one session."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(model.llm.lm_head.weight.device)[0]
    shared, of_session = vocoder
    token = _kv_bytes_a_token(model)
    memory = Memory(
        free=free - _SPARE_BYTES - shared - token * _COMMON_TOKENS,
        slot=of_session + _encoder_and_speech_bytes(model),
        token=token,
    )
    # What a long call holds on average. Where many are at their longest at once, the pool is short
    # for a moment, and a call then forgets earlier.
    window = options.window or window_of(settings.duplex)
    kept = (window.high_tokens + window.low_tokens) // 2
    num_slots, kv_tokens = fit(memory, kept, settings.fabric.slots)
    kv_tokens = options.kv_tokens or kv_tokens + _COMMON_TOKENS
    log.info("%d sessions fit, with %d tokens together", num_slots, kv_tokens)
    return CacheSizes(
        num_slots=num_slots,
        kv_tokens=kv_tokens,
        max_tokens=min(model.config.llm.max_positions, kv_tokens),
        speech_tokens=num_slots * _SPEECH_TOKENS_A_SLOT,
        page_size=64,
    )


def _measured(assets: Token2WavAssets, options: Token2WavOptions) -> tuple[int, int]:
    """Return the bytes of the vocoder's state that all slots share, and of each slot."""
    one, two = (
        Token2Wav(assets, evolve(options, num_slots=count)).calls.num_state_bytes()
        for count in (1, 2)
    )
    return 2 * one - two, two - one


def _kv_bytes_a_token(model: MiniCpmO) -> int:
    decoder = model.config.llm.decoder
    values = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim
    return values * model.llm.lm_head.weight.element_size()


def _encoder_and_speech_bytes(model: MiniCpmO) -> int:
    """Return what one session takes of the audio encoder's and the speech model's caches."""
    audio, speech = model.config.audio, model.config.tts.decoder
    frames = audio.max_positions // STREAM_FRAMES * STREAM_FRAMES
    hearing = 2 * audio.num_layers * audio.hidden_size * frames
    codes = 2 * speech.num_layers * speech.num_kv_heads * speech.head_dim * _SPEECH_TOKENS_A_SLOT
    return (hearing + codes) * model.llm.lm_head.weight.element_size()

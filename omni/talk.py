"""Talk to a running server from the terminal: WAV or text in; transcript, WAV and timings out."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, resample
from omni.client import Event, Exchange, Talker, is_loopback
from omni.conversations import DIALECTS, MODES, ask, default_mode
from omni.errors import OmniError
from omni.process import add_settings_arguments, settings_of
from omni.running import find_running
from omni.wav import wav_from_waveform, waveform_from_wav


def main(argv: Sequence[str] | None = None) -> int:
    """Ask once, print the answer, and return the exit code."""
    args = _parser().parse_args(argv)
    try:
        talker = Talker(_url(args), not args.insecure, _tell_wait, args.key)
        question = _question(args)
        mode = args.mode or default_mode(args.dialect, isinstance(question, str))
        if talker.url.startswith("https") and is_loopback(talker.url):
            print("note: the server is on this machine; its own certificate is trusted unchecked")
        exchange = asyncio.run(ask(talker, mode, question, args.dialect, args.chunk_ms))
    except (OmniError, OSError, aiohttp.ClientError, TimeoutError) as exc:
        print(f"omni talk: {str(exc) or type(exc).__name__}", file=sys.stderr)
        return 1
    _show(exchange)
    if args.out:
        Path(args.out).write_bytes(wav_from_waveform(exchange.sound, OUTPUT_HZ))
        print(f"written: {args.out}")
    return 0


def _question(args: argparse.Namespace) -> Waveform | str:
    if args.text:
        return str(args.text)
    samples, rate_hz = waveform_from_wav(Path(args.input).read_bytes())
    return resample(samples, rate_hz, INPUT_HZ)


def _url(args: argparse.Namespace) -> str:
    if args.url:
        return str(args.url)
    settings = settings_of(args)
    running = find_running(settings.fabric.run_dir)
    if running is not None and running.address:
        return running.address
    scheme = "https" if settings.web.https else "http"
    return f"{scheme}://127.0.0.1:{settings.service.gateway_port}"


def _tell_wait(event: Event) -> None:
    if event["type"].removeprefix("session.") in ("queued", "queue_update"):
        wait_s = event.get("estimated_wait_s", 0)
        print(f"waiting: place {event.get('position')}, about {wait_s:.0f} s", file=sys.stderr)


def _show(exchange: Exchange) -> None:
    if exchange.heard:
        print(f"you:    {exchange.heard.strip()}")
    print(f"answer: {exchange.text.strip()}")
    print(
        f"end of speech -> first text {_seconds(exchange.first_text_s)}, "
        f"first sound {_seconds(exchange.first_sound_s)}; {exchange.sound_s:.1f} s of sound, "
        f"RTF {'none' if exchange.rtf is None else f'{exchange.rtf:.2f}'}"
    )


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omni talk", description="Ask a running server one question, aloud or in writing."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--in", dest="input", metavar="WAV", help="the question, spoken")
    source.add_argument("--text", help="the question, written (mode chat)")
    parser.add_argument("--out", metavar="WAV", help="write the answer's sound there")
    parser.add_argument(
        "--dialect", choices=DIALECTS, default="demo", help="the protocol to speak (default: demo)"
    )
    parser.add_argument(
        "--mode", choices=MODES, help="default: chat for --text, half for openai, else duplex"
    )
    parser.add_argument(
        "--key", default=os.environ.get("OMNI_KEY", ""), help="API key; default: $OMNI_KEY"
    )
    parser.add_argument("--url", help="the server; default: the one that runs here")
    parser.add_argument(
        "--chunk-ms", type=int, default=200, help="sound in one chunk (default: 200)"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="take any certificate, of other machines too"
    )
    add_settings_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

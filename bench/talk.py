"""How long a person waits: end of speech -> first text, first sound, with synthesised questions.

    python -m bench.talk [--mode duplex half chat] [--sessions 1 2] [--against URL] [--json FILE]

Real engine, real processes; questions are spoken in real time by the packaged Piper voice.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence

from bench import report
from bench.server import running
from bench.speech import load_voice, speak
from omni.audio import INPUT_HZ, Waveform
from omni.client import Exchange, Talker
from omni.conversations import TalkMode, ask
from omni.errors import OmniError

QUESTIONS = (
    "What is the capital of France?",
    "How many days are in a week?",
    "What color is the sky?",
    "Can you tell me a short joke?",
    "What do bees make?",
    "Who wrote Romeo and Juliet?",
    "What is two plus two?",
    "Which animal says meow?",
)


def main() -> None:
    """Measure and print."""
    args = _arguments().parse_args()
    voice = load_voice()
    questions = [speak(voice, text, INPUT_HZ) for text in QUESTIONS]
    rows: list[dict[str, object]] = []
    with running({"model.engine": args.engine}) as server:
        for mode in args.mode:
            for sessions in args.sessions:
                for name, url in (("omni", server.address), ("against", args.against)):
                    if url:
                        rows.append(_measure(name, url, mode, sessions, questions, args.rounds))
                        print(report.table(rows[-1:]), flush=True)
    machine = report.machine()
    print(f"\n{machine}\n\n{report.table(rows)}")
    report.write_json(args.json, {"machine": machine, "engine": args.engine, "rows": rows})


def _measure(
    name: str, url: str, mode: TalkMode, sessions: int, questions: Sequence[Waveform], rounds: int
) -> dict[str, object]:
    began_s = time.monotonic()
    exchanges, num_failed = asyncio.run(_ask_all(url, mode, sessions, questions, rounds))
    texts = [item.first_text_s for item in exchanges if item.first_text_s is not None]
    sounds = [item.first_sound_s for item in exchanges if item.first_sound_s is not None]
    factors = [item.rtf for item in exchanges if item.rtf is not None]
    return {
        "server": name,
        "mode": mode,
        "at once": sessions,
        "answers": len(exchanges),
        "failed": num_failed,
        **{f"text {k}": v for k, v in report.percentiles(texts).items()},
        **{f"sound {k}": v for k, v in report.percentiles(sounds).items()},
        **{f"RTF {k}": v for k, v in report.percentiles(factors).items() if k != "max"},
        "took_s": round(time.monotonic() - began_s, 1),
    }


async def _ask_all(
    url: str, mode: TalkMode, sessions: int, questions: Sequence[Waveform], rounds: int
) -> tuple[list[Exchange], int]:
    """Ask all questions *rounds* times in *sessions* conversations at once."""
    exchanges: list[Exchange] = []
    failures: list[str] = []

    async def converse(first: int) -> None:
        for number in range(rounds * len(questions)):
            question = questions[(first + number) % len(questions)]
            try:
                exchanges.append(await ask(Talker(url, verify=False), mode, question))
            except (OmniError, TimeoutError) as exc:
                failures.append(str(exc))

    async with asyncio.TaskGroup() as group:
        for number in range(sessions):
            group.create_task(converse(number * 3), name=f"conversation {number}")
    return exchanges, len(failures)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", nargs="+", default=["duplex"], help="duplex half chat")
    parser.add_argument("--sessions", nargs="+", type=int, default=[1, 2], help="at once")
    parser.add_argument("--rounds", type=int, default=1, help="how often all questions are asked")
    parser.add_argument("--engine", default="pocket", help="engine of our own server")
    parser.add_argument("--against", default="", metavar="URL", help="talk to this server as well")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    return parser


if __name__ == "__main__":
    main()

"""Answers of the pocket engine's language model to 30 everyday questions, by prompt and sampling.

    python -m bench.pocket_questions                  the chosen prompt and sampling
    python -m bench.pocket_questions --all            and all that were tried against them
    python -m bench.pocket_questions --json out.json

`right` counts answers that hold what a right one must; read them all the same: an answer can hold
it and be wrong otherwise. Prints a table of the variants, then the answers of the last.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from attrs import asdict, evolve, frozen

from omni.pocket import weights
from omni.pocket.answering import Answering, Order
from omni.pocket.persona import TUNED, Persona
from omni.pocket.thinking import Sampling, Thinking, Utterance, load_thinking

NOW = datetime(2026, 11, 23, 10, 5)
#: Question, and what a right answer holds (any of these).
QUESTIONS = (
    ("Hello, how are you?", "well|fine|good"),
    ("What is your name?", "pocket"),
    ("Who are you?", "pocket|assistant"),
    ("Who made you?", "model|people|team|developer|created|made"),
    ("What can you do?", "question|chat|help|talk"),
    ("What time is it?", "10:05"),
    ("What day is it today?", "monday"),
    ("What is two plus two?", r"\b4\b|four"),
    ("What is twelve times three?", r"\b36\b|thirty-six"),
    ("What is the capital of France?", "paris"),
    ("What is the capital of Japan?", "tokyo"),
    ("Who wrote Romeo and Juliet?", "shakespeare"),
    ("How many days are in a week?", r"\b7\b|seven"),
    ("What colour is the sky?", "blue"),
    ("What is the largest planet?", "jupiter"),
    ("Why is the sky blue?", "scatter"),
    ("How do I boil an egg?", "water"),
    ("What should I cook for dinner tonight?", "pasta|salad|pizza|soup|chicken|rice|sandwich|fish"),
    ("Tell me a joke.", r"because|\?"),
    ("Tell me a short story.", r"\b(was|lived|went|girl|boy|man|woman|young)\b"),
    ("Can you recommend a good book?", r"read|\"|called|by [A-Z]"),
    ("I feel a bit sad today.", "okay|sorry to hear|normal|talk"),
    ("I am tired. What should I do?", "rest|sleep|nap|break|relax"),
    ("How do I say thank you in Spanish?", "gracias"),
    ("What is photosynthesis?", "plant.*(light|sun|food)"),
    ("How far away is the moon?", r"23\d,|38\d,|24\d,|quarter of a million"),
    ("What is the weather like today?", "don't know|can't|internet"),
    ("Can you see me?", r"\bno\b|can't|cannot"),
    ("Thank you very much.", "welcome"),
    ("Goodbye.", "bye"),
)


@frozen
class Variant:
    """One way to ask: instructions, how many of our examples, sampling, rules of the persona."""

    name: str
    instructions: str
    num_examples: int
    sampling: Sampling
    is_ours: bool = False


@frozen
class Reply:
    """One answer. is_known: it needed no language model."""

    question: str
    answer: str
    is_right: bool
    is_known: bool
    first_piece_ms: float


HELPFUL = "You are a helpful assistant."
SHORT = Persona.of("").prefix[0].text
FACTS = "You are a helpful assistant who knows many facts. Answer truthfully in one short sentence."
PENALTY = evolve(TUNED, repetition_penalty=1.05)
REQUESTED = evolve(TUNED, temperature=0.7, top_p=0.8, top_k=100, seed=1)
CHOSEN = Variant("chosen: 17 examples, computed, limits", SHORT, 17, TUNED, is_ours=True)
TRIED = (
    Variant("plain, temperature 0.7", HELPFUL, 0, REQUESTED),
    Variant("plain, greedy", HELPFUL, 0, TUNED),
    Variant("short, greedy", SHORT, 0, TUNED),
    Variant("short, penalty 1.05", SHORT, 0, PENALTY),
    Variant("short, 5 examples, greedy", SHORT, 5, TUNED),
    Variant("short, 10 examples, greedy", SHORT, 10, TUNED),
    Variant("short, 10 examples, penalty 1.05", SHORT, 10, PENALTY),
    Variant("short, 17 examples, greedy", SHORT, 17, TUNED),
    Variant("short, 17 examples, penalty 1.05", SHORT, 17, PENALTY),
    Variant("short, 17, penalty 1.1", SHORT, 17, evolve(TUNED, repetition_penalty=1.1)),
    Variant("short, 17, temperature 0.3", SHORT, 17, evolve(PENALTY, temperature=0.3, seed=1)),
    Variant("short, 17, temperature 0.7", SHORT, 17, evolve(REQUESTED, repetition_penalty=1.05)),
    Variant("facts, 17 examples, penalty 1.05", FACTS, 17, PENALTY),
)


def replies_of(variant: Variant, thinking: Thinking) -> list[Reply]:
    """Return the answers that *variant* gives to every question, each asked alone."""
    persona = _persona(variant)
    thinking.prepare(0, persona.prefix, lambda _: True)
    return [_reply(variant, persona, thinking, asked, right) for asked, right in QUESTIONS]


def _persona(variant: Variant) -> Persona:
    ours = Persona.of("")
    if variant.is_ours:
        return ours
    system = Utterance(role="system", text=variant.instructions)
    examples = ours.prefix[1 : 1 + 2 * variant.num_examples]
    return Persona(prefix=(system, *examples), is_custom=True)


def _reply(
    variant: Variant, persona: Persona, thinking: Thinking, asked: str, right: str
) -> Reply:
    pieces: list[tuple[float, str]] = []
    began = time.perf_counter()
    order = Order(
        messages=(*persona.prefix, Utterance(role="user", text=asked)),
        persona=persona,
        sampling=variant.sampling,
        speak=True,
        is_limited=variant.is_ours,
    )
    making = Answering(
        order, lambda text: pieces.append((time.perf_counter(), text)), lambda: True
    )
    # The bare variants are asked as they are: the clock and the sums belong to ours.
    if variant.is_ours:
        answer = making.run(thinking, 0, NOW, lambda _: None)
        text, is_known = "".join(piece for _, piece in pieces), answer.generate_ms == 0.0
    else:
        text = thinking.answer(0, order.messages, order.sampling, making.take).text
        is_known = False
    first = (pieces[0][0] if pieces else time.perf_counter()) - began
    is_right = re.search(right, text, re.IGNORECASE | re.DOTALL) is not None
    return Reply(asked, " ".join(text.split()), is_right, is_known, first * 1000)


def _line(variant: Variant, replies: Sequence[Reply]) -> str:
    right = sum(reply.is_right for reply in replies)
    open_right = sum(r.is_right for r in replies if not r.is_known)
    num_open = sum(not r.is_known for r in replies)
    words = sum(len(reply.answer.split()) for reply in replies) / len(replies)
    first_ms = sorted(reply.first_piece_ms for reply in replies)[len(replies) // 2]
    by_model = f"{open_right}/{num_open}"
    return f"{variant.name:36} {right:3}/{len(replies)} {by_model:>9} {words:9.1f} {first_ms:12.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true", help="also everything that was tried")
    parser.add_argument("--model", type=Path, help="another GGUF file or directory")
    parser.add_argument("--json", type=Path, help="write everything there")
    args = parser.parse_args(argv)
    thinking = load_thinking(args.model or weights.thinking_file(), 1, 2048)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"model {thinking.name}, commit {commit}, {len(QUESTIONS)} questions")
    print(f"{'variant':36} {'right':>6} {'by model':>9} {'words':>9} {'1st piece ms':>12}")
    made = {}
    for variant in [*(TRIED if args.all else ()), CHOSEN]:
        made[variant.name] = replies_of(variant, thinking)
        print(_line(variant, made[variant.name]), flush=True)
    for reply in made[CHOSEN.name]:
        mark = "right" if reply.is_right else "WRONG"
        by = "rule " if reply.is_known else "model"
        print(f"{mark} {by} {reply.question} -> {reply.answer}")
    if args.json:
        document = {name: [asdict(reply) for reply in replies] for name, replies in made.items()}
        args.json.write_text(json.dumps({"commit": commit, "variants": document}, indent=2))
    thinking.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

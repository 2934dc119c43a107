"""Spoken sums -> their exact value: "what is twelve times three" is 36."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = {word: value for value, word in enumerate(_SMALL)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_WORD = "|".join([*_VALUES, *_SCALES])
_NUMBER_WORDS = re.compile(rf"\b(?:{_WORD})(?:(?:[\s-]+|\s+and\s+)(?:{_WORD}))*\b")
_OPERATORS = (
    (r"multiplied by|\btimes\b|(?<=\d)\s*x\s*(?=\d)|×", "*"),
    (r"divided by|\bover\b|÷", "/"),
    (r"\bplus\b|\badded to\b", "+"),
    (r"\bminus\b|\bless\b|−", "-"),
    (r"\bsquared\b", "**2"),
    (r"\bcubed\b", "**3"),
    (r"\bto the power of\b", "**"),
)
_ASKED = re.compile(
    r"(?:(?:so|and|okay|ok|please|hey|well|now|hello|hi|can you tell me|tell me)[, ]+)*"
    r"(?:what(?:'s| is| are| does| do)|how much (?:is|are|does)|(?:can you )?calculate|compute)?"
    r"\s*(?P<sum>.+?)(?:\s+(?:equals?|equal to|equal|make))?"
)
_LARGEST = 10**15
_MAX_POWER = 20
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value_of_sum(question: str) -> str | None:
    """Return the value that *question* asks for, as digits; None if it asks for no sum."""
    asked = _ASKED.fullmatch(question.lower().strip(" .?!"))
    if asked is None:
        return None
    text = re.sub(r"(?<=\d),(?=\d{3})", "", asked["sum"])
    text = re.sub(rf"\ba (?={'|'.join(_SCALES)})", "", text)
    text = _NUMBER_WORDS.sub(lambda match: str(_number(match[0])), text)
    text = re.sub(r"([\d.]+)\s*(?:percent|%) of ([\d.]+)", r"(\1 / 100) * \2", text)
    for words, sign in _OPERATORS:
        text = re.sub(words, sign, text)
    if not re.fullmatch(r"[\d.+\-*/() ]+", text) or not re.search(r"\d.*[+\-*/].*\d", text):
        return None
    try:
        return _written(_value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError):
        return None


def _number(words: str) -> int:
    total = part = 0
    for word in re.findall(r"[a-z]+", words):
        if word in _VALUES:
            part += _VALUES[word]
        elif word == "hundred":
            part = max(part, 1) * 100
        elif word in _SCALES:
            total += max(part, 1) * _SCALES[word]
            part = 0
    return total + part


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            value = Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            exponent = _value(right)
            if exponent.denominator != 1 or not 0 <= exponent <= _MAX_POWER:
                raise ValueError(f"power {exponent}")
            value = _value(left) ** int(exponent)
        case ast.BinOp(left=left, op=operation, right=right):
            if (compute := _OPERATIONS.get(type(operation))) is None:
                raise ValueError(f"operator {type(operation).__name__}")
            value = compute(_value(left), _value(right))
        case _:
            raise ValueError(ast.dump(node))
    if abs(value) > _LARGEST:
        raise ValueError("too large to be said")
    return value


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return f"{int(value):,}"
    return f"about {float(value):,.2f}" if 100 % value.denominator else f"{float(value):,.2f}"

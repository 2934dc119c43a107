"""Written English -> the words a person would read out: numbers, times, money, signs."""

import re

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
_IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_ABBREVIATIONS = {
    "Mr.": "mister",
    "Mrs.": "missus",
    "Ms.": "miz",
    "Dr.": "doctor",
    "St.": "saint",
    "Prof.": "professor",
    "etc.": "et cetera",
    "e.g.": "for example",
    "i.e.": "that is",
    "vs.": "versus",
    "a.m.": "A M",
    "p.m.": "P M",
}
_UNITS = {
    "km": "kilometers",
    "cm": "centimeters",
    "mm": "millimeters",
    "m": "meters",
    "kg": "kilograms",
    "g": "grams",
    "mg": "milligrams",
    "ml": "milliliters",
    "l": "liters",
    "mph": "miles per hour",
    "km/h": "kilometers per hour",
    "ft": "feet",
    "lb": "pounds",
    "lbs": "pounds",
    "oz": "ounces",
    "min": "minutes",
    "ms": "milliseconds",
    "Hz": "hertz",
    "kHz": "kilohertz",
    "GB": "gigabytes",
    "MB": "megabytes",
    "°C": "degrees Celsius",
    "°F": "degrees Fahrenheit",
    "°": "degrees",
}
_MONEY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny")}
_SIGNS = {
    "&": " and ",
    "@": " at ",
    "+": " plus ",
    "=": " equals ",
    "×": " times ",
    "÷": " divided by ",
    "%": " percent",
    "<": " less than ",
    ">": " greater than ",
    "/": " or ",
    "~": " about ",
}
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_UNIT = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": ", "})
#: Digits beyond this are read one by one, like a telephone number.
_MAX_COUNTED_DIGITS = 15


def number_words(number: int) -> str:
    """Return *number* as English words: 1_205 is "one thousand two hundred five"."""
    if number < 0:
        return "minus " + number_words(-number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens = _TENS[number // 10]
        return tens if number % 10 == 0 else f"{tens}-{_ONES[number % 10]}"
    if number < 1000:
        return _joined(f"{_ONES[number // 100]} hundred", number % 100)
    for size, name in _SCALES:
        if number >= size:
            return _joined(f"{number_words(number // size)} {name}", number % size)
    raise AssertionError(number)


def ordinal_words(number: int) -> str:
    """Return *number* as an English ordinal: 21 is "twenty-first"."""
    words = number_words(number)
    head, last = re.fullmatch(r"(.*?)([a-z]+)", words).groups()  # type: ignore[union-attr]
    if last in _IRREGULAR_ORDINALS:
        return head + _IRREGULAR_ORDINALS[last]
    return head + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def year_words(year: int) -> str:
    """Return *year* (1000 to 2999) as it is said: 1999 is "nineteen ninety-nine"."""
    century, rest = divmod(year, 100)
    if year % 1000 < 10:
        return number_words(year)
    if rest == 0:
        return f"{number_words(century)} hundred"
    return f"{number_words(century)} {'oh ' if rest < 10 else ''}{number_words(rest)}"


def time_words(hour: int, minute: int) -> str:
    """Return a time of day as it is said: 10, 5 is "ten oh five"."""
    if minute == 0:
        return f"{number_words(hour)} o'clock"
    return f"{number_words(hour)} {'oh ' if minute < 10 else ''}{number_words(minute)}"


def spoken(text: str) -> str:
    """Return *text* with everything that is not a word or a pause written out in words.

    Markdown marks, brackets and pictograms are dropped; . , ; : ! ? stay, as they shape the voice.
    """
    text = text.translate(_APOSTROPHES)
    text = re.sub(r"https?://(\S+?)/?(?=[.,]?(?:\s|$))", r"\1", text)
    for short, long in _ABBREVIATIONS.items():
        text = re.sub(rf"(?<![\w.]){re.escape(short)}(?!\w)", long, text)
    text = re.sub(r"^\s*(?:[-*•]|#+)\s+", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\d)\s*\*\s*(?=\d)", " times ", text)
    text = re.sub(r"[*_`#|]+", " ", text)
    text = _money(text)
    text = _times(text)
    text = _units(text)
    text = _numbers(text)
    for sign, words in _SIGNS.items():
        text = text.replace(sign, words)
    text = re.sub(r"(?<=\w)\.(?=\w)", " dot ", text)
    text = re.sub(r"\s*\n+\s*", ". ", text)
    text = re.sub(r"[^A-Za-zÀ-ÿ'.,;:!?\- ]+", " ", text)
    text = re.sub(r"([.!?])\s*\.", r"\1", text)
    return re.sub(r"\s+([.,;:!?])", r"\1", re.sub(r"\s+", " ", text)).strip()


def _joined(head: str, rest: int) -> str:
    return head if rest == 0 else f"{head} {number_words(rest)}"


def _decimal_words(digits: str) -> str:
    whole, _, fraction = digits.replace(",", "").partition(".")
    if len(whole) > _MAX_COUNTED_DIGITS or (len(whole) > 1 and whole[0] == "0"):
        words = " ".join(_ONES[int(digit)] for digit in whole)
    else:
        words = number_words(int(whole))
    if fraction:
        words += " point " + " ".join(_ONES[int(digit)] for digit in fraction)
    return words


def _money(text: str) -> str:
    def words(match: re.Match[str]) -> str:
        unit, small = _MONEY[match[1]]
        whole, _, fraction = match[2].replace(",", "").partition(".")
        if match[3]:
            return f"{_decimal_words(match[2])} {match[3]} {unit}s"
        said = f"{number_words(int(whole))} {unit}{'' if whole == '1' else 's'}"
        if len(fraction) == 2 and fraction != "00":
            plural = "pence" if small == "penny" else f"{small}s"
            said += f" and {number_words(int(fraction))} {plural}"
        return said

    pattern = rf"([$€£])\s?({_NUMBER})(?:\s(million|billion|trillion))?"
    return re.sub(pattern, words, text)


def _times(text: str) -> str:
    def words(match: re.Match[str]) -> str:
        half = f" {match[3][0].upper()} M" if match[3] else ""
        said = time_words(int(match[1]), int(match[2]))
        return (said.removesuffix(" o'clock") if half else said) + half

    text = re.sub(r"\b([01]?\d|2[0-3]):([0-5]\d)(?:\s?([AaPp])(?:[Mm]\b|\.[Mm]\.))?", words, text)
    return re.sub(r"\b(\d{1,2})\s?([AaPp])\.?[Mm]\b", lambda m: f"{m[1]} {m[2].upper()} M", text)


def _units(text: str) -> str:
    def words(match: re.Match[str]) -> str:
        unit = _UNITS[match[2]]
        if match[1] == "1":
            unit = unit.replace("feet", "foot").replace("inches", "inch")
            unit = re.sub(r"s\b", "", unit, count=1) if unit.split()[0].endswith("s") else unit
        return f"{match[1]} {unit}"

    return re.sub(rf"({_NUMBER})\s?({_UNIT})(?![\w/])", words, text)


def _numbers(text: str) -> str:
    text = re.sub(
        r"\b(1[1-9]|20)(\d)0s\b", lambda m: _plural(year_words(int(m[1] + m[2] + "0"))), text
    )
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: ordinal_words(int(m[1])), text)
    text = re.sub(r"(?<=\d)\s+-\s+(?=\d)", " minus ", text)
    text = re.sub(r"(?<=\d)-(?=\d)", " to ", text)
    text = re.sub(r"(?<![\w.])-(?=\d)", "minus ", text)
    text = re.sub(
        r"(?<![\d,.])(1[1-9]\d\d|20\d\d)(?![\d,]|\.\d)", lambda m: year_words(int(m[1])), text
    )
    return re.sub(_NUMBER, lambda m: f" {_decimal_words(m[0])} ", text)


def _plural(words: str) -> str:
    return words[:-1] + "ies" if words.endswith("y") else words + "s"

r"""Numbers as people and models write them: signs, currencies, separators, fractions, exponents, units.

What cannot be read as one number (``10:30``, ``3-5``, ``1,2``, ``2\sqrt{3}``, ``x + 5``) is never taken for one of its
parts. Every search is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

from r2vpo.llm.rewards.text import last_boxed

LONGEST = 400
"""Characters of a number; a longer one is not read, nor is an exponent above this."""

_UNREAD = "\0"
_SUBSTITUTIONS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2212\u2012\u2013\ufe63\uff0d]", "-"),
        (r"\\(?:left|right|displaystyle|bigl?|bigr)(?![a-z])|\\!|\*\*(?=[^*])", ""),
        (r"\{,\}", ","),
        (r"\{:\}", ":"),
        (r"\\\$", "$"),
        (r"\\%", "%"),
        (r"\\(?:cdot|times|ast)(?![a-z])|[\u00d7\u00b7\u22c5]", "*"),
        (r"\\div(?![a-z])|\u00f7", "/"),
        (r"\^ ?(?:\\circ|\{ ?\\circ ?\})", "\u00b0"),
        (
            r"(?<![0-9.,:/])([0-9]{1,3}(?:(?:\\[,;: ]|[~ \u00a0\u2007\u2009\u202f])[0-9]{3})+)(?![0-9])",
            lambda match: re.sub("[^0-9]", "", match.group()),
        ),
        (r"\\[,;: ]|[~\u00a0\u2007\u2009\u202f]", " "),
        (r"\\[dtc]?frac ?\{ ?(-?[0-9][0-9.,]*) ?\} ?\{ ?([0-9][0-9.,]*) ?\}", r" \1/\2"),
        (r"\\[dtc]?frac ?([0-9]) ?([0-9])", r" \1/\2"),
        (r"- +(?=[0-9.,]+/[0-9])", "-"),
        ("\u00bd", " 1/2"),
        ("\u00bc", " 1/4"),
        ("\u00be", " 3/4"),
        (r"(?<=[0-9]) ?/ ?(?=[0-9])", "/"),
        (
            r"(?<![0-9.,:/])([0-9]{1,9}) +([0-9]{1,9})/([0-9]{1,9})(?![0-9/])",
            lambda match: _mixed(*map(int, match.groups())),
        ),
        (r"(?<![0-9.,])([0-9][0-9.,]*) ?\* ?10 ?\^ ?(?:\{ ?([-+]?[0-9]+) ?\}|([-+]?[0-9]+))", r"\1e\2\3"),
        (r"(?<![0-9.,*^}\]) ])10 ?\^ ?(?:\{ ?([-+]?[0-9]+) ?\}|([-+]?[0-9]+))", r"1e\1\2"),
        (r"(?<![0-9.,])[0-9][0-9.,]* ?\^ ?(?:\{[^{}]{0,50}\}|[-+]?[0-9A-Za-z]+)", _UNREAD),
        (r"\\sqrt(?: ?\[[^\[\]]{0,50}\])? ?(?:\{[^{}]{0,200}\}|[0-9])|\u221a ?[0-9.]+", _UNREAD),
        (r"\\(?:[dtc]?frac|[dt]?binom) ?\{[^{}]{0,200}\} ?\{[^{}]{0,200}\}", _UNREAD),
    )
]

_NUMBER = re.compile(rf"{_UNREAD}|(?:[0-9]|\.(?=[0-9]))(?:[0-9.,:/]*[0-9])?(?:[eE][-+]?[0-9]+(?![0-9A-Za-z.]))?")
_DECIMAL = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")

# Looking back from a number, at most this far.
_CONTEXT = 60
_PART_OF_A_NAME = re.compile(r"(?:(?:^|[^\\A-Za-z])[A-Za-z]+|[A-Za-z)}\]]? ?_\{?|[A-Za-z}] ?\^ ?\{? ?[-+]?)$")
_SIGN = re.compile(r"(?P<sign>[-+]?)(?P<gap> *)(?:\\?[$\u20ac\u00a3\u00a5\u20b9] *)?(?P<inner>[-+]?)$")
_OPERAND = re.compile(r"(?:[0-9)}\]%\u00b0!\0]|(?<![A-Za-z\\])[A-Za-z])$")
_BEGINNING = re.compile(r"(?:[=(\[{:$\u2248<>]|\\approx|\\boxed\{)$")
_OPERATOR = re.compile(r"(?:[0-9)}\]%\u00b0\0]|(?<![A-Za-z\\])[A-Za-z]) *[+*/^]$|(?<=[0-9)]) *-$")
_NOT_EQUAL = re.compile(
    r"(?:(?<![A-Za-z<\\/])[A-Za-z] ?[<>]=?|[\u2264\u2265\u2260\u00b1\u221a]"
    r"|\\(?:leq?|geq?|neq?|lt|gt|pm|mp|log|ln|sin|cos|tan|sqrt|pi) ?(?:_\{?)?\{?)$"
)
_CONTINUED = re.compile(
    r" ?[*+^/] ?(?:[A-Za-z](?![A-Za-z])|\\[a-z]|[(\0])| ?- ?(?:[xyzn](?![A-Za-z])|\\[a-z]|[(\0])"
    r"|\0| ?\\(?:pi|sqrt|frac|log|ln|sin|cos|tan|pm)|[\u03c0\u221a\u00b1\u00b2\u00b3(]"
    r"|[abcdefijnopqrtuvwxyz](?![A-Za-z])| [xyz](?![A-Za-z])"
)
_SCALE = re.compile(r" *(?:\\text ?\{ *)?(hundred|thousand|million|billion|trillion|dozen)\b|([kKMB])(?![A-Za-z])")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_LETTER_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}


def last_number(text: str) -> Fraction | None:
    """The number a text ends with, or that its last closed box does; None without one, or where it is not one.

    Only the ASCII digits count: other Unicode digits are not what an answer is written with.
    """
    return next(_numbers(_stated(text)), None)


def only_number(text: str) -> Fraction | None:
    """The one number of a ground truth; None where it holds none, several, or something that is not one.

    A ground truth may be a whole solution: what follows the last ``####``, the last closed box, or the last ``=`` of
    one chain of equations, is its answer.
    """
    text = _stated(text.rpartition("####")[2])
    if not re.search(r"[,;]\s|\bor\b|\band\b|\\text|\n", text):
        text = "=" + text.rpartition("=")[2]
    numbers = list(islice(_numbers(text), 2))
    return numbers[0] if len(numbers) == 1 else None


def quantity(text: str) -> str | None:
    r"""A text that is one number, with a unit or without, in plain digits or as ``\frac{a}{b}``; None for others."""
    text = text.strip()
    value = only_number(text) if len(text) <= LONGEST and _QUANTITY.fullmatch(text) else None
    if value is None:
        return None
    places = next((n for n in range(LONGEST) if (value * 10**n).denominator == 1), None)
    if places is None:
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
    return f"{'-' if value < 0 else ''}{whole}{'.' if decimals else ''}{decimals}"


_TEXT_UNIT = r"\s*\\(?:text|mathrm|mbox)\s*\{[^{}0-9]*\}(?:\^\{?[23]\}?)?"
_DEGREES = r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\u00b0)"
_SEPARATED = r"(?:[0-9.,/eE ]|\{,\}|\\[,;:! ]|[\u00a0\u202f]|(?<=[eE])[-+])*"
_QUANTITY = re.compile(
    r"(?:\\text\s*\{\s*(?=[^{}]*\}\s*\.?\s*$))?[-+\u2212]?\s*(?:\\?[$\u20ac\u00a3])?\s*[-+\u2212]?[0-9.]"
    rf"{_SEPARATED}(?:{_TEXT_UNIT}|{_DEGREES}|(?:\s+[A-Za-z]{{2,}})+)?\s*\}}?\s*\.?"
)


def _stated(text: str) -> str:
    stated = (last_boxed(text) or "").strip()
    if not stated:
        return text
    return stated + (_UNREAD if stated.endswith("!") else "")  # 5! in a box is a factorial, in a sentence joy


def _numbers(text: str) -> Iterator[Fraction | None]:
    """Every number of a text, the last one first; None for each that cannot be read as one."""
    for pattern, replacement in _SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    for match in reversed(list(_NUMBER.finditer(text))):
        before = text[max(0, match.start() - _CONTEXT) : match.start()]
        after = text[match.end() : match.end() + _CONTEXT]
        if match.group() == _UNREAD:
            yield None
        elif not _PART_OF_A_NAME.search(before):
            sign, value = _sign(before), _read(match.group())
            if sign is None or value is None or _CONTINUED.match(after):
                yield None
            else:
                yield sign * value * _scale(after)


def _sign(before: str) -> int | None:
    """1 or -1; None where the number is an operand of something that is written out before it."""
    match = _SIGN.search(before)
    assert match is not None  # it matches the empty text
    sign, gap, inner = match.group("sign", "gap", "inner")
    head = before[: match.start()]
    if _NOT_EQUAL.search(before[: match.start("inner")].rstrip(" ")) or _OPERATOR.search(before.rstrip(" ")):
        return None
    if inner or not sign:
        return None if sign or (inner and _OPERAND.search(head)) else -1 if inner == "-" else 1
    if not gap:
        if _OPERAND.search(head):
            return None
        word = bool(re.search(r"[A-Za-z.]$", head))
        return -1 if sign == "-" and not word else 1
    if _OPERAND.search(head.rstrip(" ")) or not head.strip(" ") or head.endswith("\n"):
        return None
    return -1 if sign == "-" and _BEGINNING.search(head.rstrip(" ")) else 1


def _read(literal: str) -> Fraction | None:
    parts = literal.split("/")
    if len(literal) > LONGEST or len(parts) > 2:
        return None
    values = [_decimal(part) for part in parts]
    if None in values or (len(values) == 2 and not values[1]):
        return None
    return values[0] if len(values) == 1 else values[0] / values[1]  # type: ignore[operator]


def _decimal(literal: str) -> Fraction | None:
    exponent = re.split("[eE]", literal)[1:]
    if not _DECIMAL.fullmatch(literal) or (exponent and abs(int(exponent[0])) > LONGEST):
        return None
    return Fraction(literal.replace(",", ""))


def _scale(after: str) -> int:
    match = _SCALE.match(after)
    if not match:
        return 1
    return _SCALES[match.group(1)] if match.group(1) else _LETTER_SCALES[match.group(2)]


def _mixed(whole: int, numerator: int, denominator: int) -> str:
    if denominator == 0 or numerator >= denominator:
        return _UNREAD
    return f"{whole * denominator + numerator}/{denominator}"

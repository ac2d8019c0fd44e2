"""What Markdown texts are made of: tables, literal text, numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Format = Callable[[float], str]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column stands left and whose others stand right."""
    lines = [header, [":--", *("--:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(measure: Mapping[str, Any], form: Format) -> str:
    """Return a mean with what is known about its uncertainty."""
    text = form(measure["mean"])
    if measure["deviation"]:
        return f"{text} ± {form(measure['deviation'])}"
    return f"{text} [{form(measure['low'])}, {form(measure['high'])}]" if "low" in measure else text


def small(measure: Mapping[str, Any] | None) -> str:
    """Return a mean with four digits, a large one as a count, or nothing where there is none."""
    return measured(measure, lambda value: whole(value) if value >= 1000 else f"{value:.4g}") if measure else ""


def listing(names: Sequence[Any], capital: bool = False) -> str:
    """Return "a, b and c"."""
    texts = [str(name) for name in names]
    text = " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]
    return text[0].upper() + text[1:] if capital else text


def literal(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>#|~$" else character for character in text.strip())


def points(value: float) -> str:
    """Return a score."""
    return f"{value:.2f}"


def signed(value: float, digits: int = 2) -> str:
    """Return a difference."""
    return f"{value:+.{digits}f}".replace("-", "−")


def whole(value: float) -> str:
    """Return a count."""
    return f"{value:,.0f}"


def power(value: float) -> str:
    """Return a large number as 1.23 × 10⁴."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"

"""Numbers as options: what is not such a number is refused in one sentence."""

import argparse
from collections.abc import Callable

from nmt.config import WIDEST_BEAM


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def beam_size(text: str) -> int:
    """How wide a beam is, or how many of its hypotheses are wanted."""
    number = positive(text)
    if number > WIDEST_BEAM:
        raise argparse.ArgumentTypeError(f"{text} is too large; the beam size is at most {WIDEST_BEAM}")
    return number


def between(low: float, high: float) -> Callable[[str], float]:
    """A reader of numbers from `low` to `high`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return number


def port(text: str) -> int:
    """A port of TCP; 0 stands for any that is free."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return number

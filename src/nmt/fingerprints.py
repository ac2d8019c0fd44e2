"""Sentences as numbers of 128 bits: what must be compared with all others need not be held in memory as text.

A fingerprint is a BLAKE2b digest. Two different sentences share one with a probability of 2**-128 a pair, so among a
billion sentences some two do with 1.5e-21: far less than that of a memory fault that goes unnoticed, and nobody can
write a text that makes it more likely. Equal fingerprints are taken for equal sentences.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def fingerprints(texts: Iterable[str]) -> np.ndarray:
    """One a text: uint64 [N, 2]."""
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def codes(prints: np.ndarray) -> np.ndarray:
    """Dense numbers from 0, int32 where that suffices [N], equal where the fingerprints [N, 2] are."""
    order, is_new = _grouped(prints)
    found = np.empty(len(prints), number_type(2 * len(prints)))
    found[order] = np.cumsum(is_new, dtype=found.dtype) - 1
    return found


def number_type(count: int) -> type[np.signedinteger[Any]]:
    """The smaller type that numbers so many things."""
    return np.int32 if count < 2**31 else np.int64


def duplicated(prints: np.ndarray) -> np.ndarray:
    """Whether a row [N, 2] stands further up, too: bool [N]."""
    order, is_new = _grouped(prints)
    found = np.empty(len(prints), bool)
    found[order] = ~is_new
    return found


def _grouped(prints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order with equal fingerprints side by side, the first of them first, and where in it a new one begins."""
    order = np.lexsort((prints[:, 1], prints[:, 0]))
    is_new = np.ones(len(prints), bool)
    for half in (0, 1):  # one after the other: a sorted copy of both would be the largest array of all
        sorted_half = prints[order, half]
        differs = sorted_half[1:] != sorted_half[:-1]
        is_new[1:] = differs if half == 0 else is_new[1:] | differs
    return order, is_new

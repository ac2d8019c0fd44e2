"""Recurrent sequence-to-sequence translation, with and without attention."""

__version__ = "0.1.0"

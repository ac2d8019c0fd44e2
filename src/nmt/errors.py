"""The one exception that a user is meant to see."""


class UserError(ValueError):
    """Bad input or a bad environment: the message says what is wrong, where, and what to do.

    Stages and commands print it as one line without a traceback; anything else that escapes is a bug of ours.
    """

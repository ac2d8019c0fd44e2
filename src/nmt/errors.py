"""The one exception that a user is meant to see."""

import os
import re

SECRETS = re.compile(r"(?i)(PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY)")
"""Environment variables of such names hold what nobody else may read."""
_LEAST = 6
"""Characters; a shorter value would be found by chance in any text."""
_IN_ADDRESS = re.compile(
    r"(?i)(?P<scheme>https?://)[^\s/?#'\"<>]*@|(?P<other>(?<![a-z0-9+.-])(?!https?:|file:)[a-z][a-z0-9+.-]*://)[^\s'\"<>]*@"
)
"""A password in a database's address may hold a slash, one for the web not."""
_IN_QUERY = re.compile(
    r"(?i)(?P<name>[?&;][\w.-]*(?:password|passwd|token|secret|signature|credential|api_?key|access_?key)=)[^\s&;'\"<>]+"
)


class UserError(ValueError):
    """Bad input or a bad environment: the message says what is wrong, where, and what to do.

    Stages and commands print it as one line without a traceback; anything else that escapes is a bug of ours.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


def without_secrets(text: str) -> str:
    """The text without user names and passwords in addresses, and without what secret environment variables hold."""
    text = _IN_QUERY.sub(r"\g<name>***", _IN_ADDRESS.sub(r"\g<scheme>\g<other>", text))
    for name, value in os.environ.items():
        if len(value) >= _LEAST and SECRETS.search(name):
            text = text.replace(value, "***")
    return text

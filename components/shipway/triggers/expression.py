"""Takes values out of a payload by JMESPath, and lets only tame ones through to a run's settings.

JMESPath has no access to anything but the payload: no names, no files, no code.
"""

import datetime as dt
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from shipway.errors import InputError

MOST_CHARACTERS = 500
# What jmespath raises where a payload does not fit: its own errors, which are ValueErrors, and Python's.
_MISFITS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
Plain = str | int | float | bool
# No slash, colon, quote, bracket or brace, nor dots alone: no path, no import path, no YAML, JSON or template.
_TAME = re.compile(r"(?!\.+\Z)[\w .,+%@=-]{1,200}")


class Expression:
    """A JMESPath expression.

    Attributes:
        text: As it was written.
    """

    def __init__(self, text: str) -> None:
        """Parses it.

        Raises:
            InputError: It is no JMESPath, or longer than 500 characters.
        """
        import jmespath
        from jmespath.exceptions import JMESPathError

        if len(text) > MOST_CHARACTERS:
            raise InputError(
                f"expected a JMESPath expression of at most {MOST_CHARACTERS} characters, found {len(text)}"
            )
        self.text = text
        try:
            self._parsed = jmespath.compile(text)
            # Unknown functions show only when they are called.
            self._parsed.search({})
        except JMESPathError as error:
            said = str(error).strip().splitlines()[0]
            if type(error).__name__ == "JMESPathTypeError":
                # What the empty payload lacks a real one may have.
                return
            raise InputError(
                f"expected a JMESPath expression (text as \"'2014-01-01'\"), found {text!r}: {said}"
            ) from error
        except _MISFITS:
            return

    @property
    def is_literal(self) -> bool:
        """Whether it stands for itself, so that nothing of a payload is in it."""
        return bool(self._parsed.parsed["type"] == "literal")

    def find(self, payload: Mapping[str, Any]) -> Any:
        """Returns what the expression finds in a payload, or None.

        Raises:
            InputError: A function of it does not fit what the payload holds.
        """
        try:
            return self._parsed.search(payload)
        except _MISFITS as error:
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"expression {self.text!r} does not fit the payload: {said}"[:400]) from error


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    """Returns a parsed expression.

    Raises:
        InputError: It is no JMESPath.
    """
    return Expression(text)


def text_of(value: Any) -> str:
    """Returns a found value as the text of a label: "" for nothing, `true` and `false` as JSON has them.

    Raises:
        InputError: It is a list or a mapping.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InputError(f"expected one value, found a {'list' if isinstance(value, list) else 'mapping'}")


def tame(found: Any, written: str) -> Plain:
    """Lets a value of a payload through to a setting or a parameter of a run.

    Args:
        found: The value.
        written: The expression that found it, for the message.

    Returns:
        A number, a truth value, a moment, or text of letters, digits, blanks and `.,+%@=-`.

    Raises:
        InputError: It is anything else, or nothing.
    """
    if isinstance(found, bool) or (isinstance(found, (int, float)) and abs(found) < 1e15):
        return found
    if isinstance(found, str) and (_TAME.fullmatch(found) or _is_moment(found)):
        return found
    what = "nothing" if found is None else repr(found)
    what = what if len(what) <= 60 else what[:57] + "..."
    raise InputError(
        f"{written!r} gives {what}; expected a number, a moment, or up to 200 letters, digits, blanks and .,+%@=- "
        "(no path, no import path)"
    )


def _is_moment(text: str) -> bool:
    try:
        dt.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True

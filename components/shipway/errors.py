"""The failures a user can cause, each with the exit code that the command line gives it.

A message names what was refused, where, what was found and what was expected. The command line and the
run report print the message alone; a traceback stays in the step's log.
"""


class ShipwayError(Exception):
    """Something went wrong that one clear sentence can explain.

    Attributes:
        exit_code: What `shipway` exits with when this error ends it.
        kind: The word for it in `summary.json`.
    """

    exit_code = 1
    kind = "error"


class InputError(ShipwayError):
    """Bad input: a file that is missing or unreadable, a setting that cannot work."""

    exit_code = 2
    kind = "input"


class SpecError(InputError):
    """The spec file is wrong; the message lists every fault with its path and line."""


class RejectedError(ShipwayError):
    """Validation or a gate refused the data or the model."""

    exit_code = 3
    kind = "rejected"


class UserCodeError(ShipwayError):
    """The user's own Python (loader, features, model) raised; the message gives file and line."""


class NotBlessedError(RejectedError):
    """A model was about to ship that no Blessing names."""


class DigestMismatchError(ShipwayError):
    """Bytes on disk are not the bytes that were named."""

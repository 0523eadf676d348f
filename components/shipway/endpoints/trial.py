"""What the staging endpoint's record says of the deployment that is on trial there."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Trial(BaseModel):
    """The record of a staging endpoint.

    Attributes:
        verified: The revision that passed its smoke test last; "" for none yet.
        candidate: The revision deployed last.
        previous: The revision to come back to when the candidate fails; "" for none.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    verified: str = ""
    candidate: str = ""
    previous: str = ""


def read_trial(record: str) -> Trial:
    """Returns what a record says; a record that is none of these says nothing."""
    try:
        return Trial.model_validate_json(record)
    except ValidationError:
        return Trial()

"""The control document: how the servers of a cluster are told what to mirror.

A small JSON file in an object store, which servers started with `--control URI` read again and again:

    {"mirror": {"revision": ID, "url": URL, "percent": N, "auth": "none" | "google", "version": V} | null}

`url` takes V1 requests; with `auth` google the server signs in as its own service account.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shipway.errors import InputError


class MirrorOrder(BaseModel):
    """What is mirrored where.

    Attributes:
        revision: The revision that is mirrored to.
        url: Where it answers in the V1 protocol.
        percent: Share of the requests.
        auth: How the server signs in there.
        version: The registry's version, for metrics.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: str
    url: str = Field(pattern=r"^https?://")
    percent: int = Field(ge=1, le=100)
    auth: Literal["none", "google"] = "none"
    version: str = ""


class Control(BaseModel):
    """The document."""

    model_config = ConfigDict(frozen=True)

    mirror: MirrorOrder | None = None


def control_uri(folder: str, name: str, environment: str) -> str:
    """Returns the URI of a model's control document."""
    from shipway.lineage.storage import join

    return join(folder, f"{name}-{environment}.json")


def read_control(uri: str) -> Control:
    """Returns the document; an empty one where there is none.

    Raises:
        InputError: It cannot be read, or is no such document.
    """
    # The server knows this module, and needs no store unless it is told of one.
    from shipway.lineage.storage import read_bytes

    content = read_bytes(uri)
    try:
        return Control() if content is None else Control.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "document"
        raise InputError(
            f"{uri}: not a control document: {where}: {fault['msg']}; delete it, or mirror anew"
        ) from error


def write_control(uri: str, control: Control) -> None:
    """Writes the document.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    from shipway.lineage.storage import write_bytes

    write_bytes(uri, control.model_dump_json().encode())

"""Vertex Experiments: a run belongs to an experiment when the run's lineage context is a child of the experiment's.

Both steps are idempotent: contexts have ids of our choosing, and a child that is there already is left as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shipway.errors import InputError, ShipwayError

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import Context

    from shipway.endpoints.vertex_client import Vertex
    from shipway.spec import ModelSpec

# What the console and the SDK recognise an experiment by.
_SCHEMA = "system.Experiment"
_SCHEMA_VERSION = "0.0.1"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")


def experiment_name(spec: ModelSpec) -> str:
    """Returns the id of the model's experiment.

    Raises:
        InputError: The spec names one that Vertex AI cannot have.
    """
    name = spec.vertex.experiment or spec.name
    if not _ID.fullmatch(name):
        raise InputError(
            f"vertex.experiment: expected at most 128 lower-case letters, digits and dashes, found {name!r}"
        )
    return name


def ensure_experiment(vertex: Vertex, spec: ModelSpec) -> str:
    """Makes the model's experiment where there is none, and returns its resource name.

    Raises:
        InputError: The name is taken by something else, or no experiment's name.
        ShipwayError: Vertex AI refused, or did not answer.
    """
    from google.api_core.exceptions import Conflict, NotFound

    name = experiment_name(spec)
    resource = f"{vertex.store}/contexts/{name}"
    reading = f"reading experiment {name}"
    try:
        found = vertex.ask(reading, vertex.metadata.get_context, {"name": resource})
    except NotFound:
        _ensure_store(vertex, spec.vertex.encryption_key or "")
        try:
            found = vertex.ask(
                f"making experiment {name}",
                vertex.metadata.create_context,
                {"parent": vertex.store, "context": _experiment(name), "context_id": name},
            )
        except NotFound as error:
            raise vertex.refusal(f"making experiment {name}", error) from error
        except Conflict:
            # Another submission made it, or an earlier try of this one whose answer was lost.
            found = vertex.ask(reading, vertex.metadata.get_context, {"name": resource})
    if found.schema_title != _SCHEMA:
        raise InputError(
            f"vertex.experiment: {resource} is a {found.schema_title or 'context without schema'}, no experiment; "
            "name another in vertex.experiment"
        )
    return resource


def add_to_experiment(vertex: Vertex, experiment: str, run: Context) -> None:
    """Makes a run's lineage part of an experiment; done already, it changes nothing.

    Args:
        vertex: Where.
        experiment: The experiment's resource name.
        run: The lineage context of the run.

    Raises:
        ShipwayError: Vertex AI refused, or did not answer.
    """
    from google.api_core.exceptions import Conflict, NotFound

    # Vertex AI gives parents with the project's number where its id was asked with: the ending tells.
    if any(
        parent.rpartition("/contexts/")[2] == experiment.rpartition("/contexts/")[2] for parent in run.parent_contexts
    ):
        return
    what = f"adding the run to experiment {experiment.rpartition('/')[2]}"
    try:
        vertex.ask(what, vertex.metadata.add_context_children, {"context": experiment, "child_contexts": [run.name]})
    except (NotFound, Conflict) as error:
        raise ShipwayError(f"{what}: Vertex AI refuses it: {error.message}") from error


def _ensure_store(vertex: Vertex, encryption_key: str) -> None:
    """Makes the project's metadata store, which a project has none of before its first run."""
    from google.api_core.exceptions import Conflict, NotFound

    what = f"making the metadata store of {vertex.location}"
    try:
        vertex.ask("reading the metadata store", vertex.metadata.get_metadata_store, {"name": vertex.store})
    except NotFound:
        store = {"encryption_spec": {"kms_key_name": encryption_key}} if encryption_key else {}
        request = {"parent": vertex.parent, "metadata_store": store, "metadata_store_id": "default"}
        try:
            operation = vertex.ask(what, vertex.metadata.create_metadata_store, request)
        except NotFound as error:
            # Only a project or location that is not there has no place for a store.
            raise vertex.refusal(what, error) from error
        except Conflict:
            return
        vertex.finished(what, operation)


def _experiment(name: str) -> dict[str, object]:
    return {
        "display_name": name,
        "schema_title": _SCHEMA,
        "schema_version": _SCHEMA_VERSION,
        "metadata": {"experiment_deleted": False},
    }

"""Validates objects against their schemas: Kubernetes' own by kubernetes-validate, others by those in schemas/."""

import functools
import importlib.resources
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
from manifests_build import Object, label
from referencing import Registry, Resource

VERSION = "1.37"


class InvalidError(Exception):
    """An object that its schema refuses, or that has none."""


def _registry() -> Registry:
    package = importlib.resources.files("kubernetes_validate")
    path = package / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict" / "_definitions.json"
    return Resource.from_contents(json.loads(path.read_text())) @ Registry()


def _schemas() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    found, registry = {}, _registry()
    for path in sorted((Path(__file__).parent / "schemas").glob("*.json")):
        schema = json.loads(path.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        key = schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]
        found[key] = jsonschema.Draft202012Validator(schema, registry=registry)
    return found


SCHEMAS = _schemas()


def validate(thing: Object) -> None:
    """Validates an object.

    Raises:
        InvalidError: It does not fit its schema, or there is none.
    """
    _validate(json.dumps(thing))


# Most objects are the same in every build, and kubernetes-validate reads its schemas anew for each.
@functools.cache
def _validate(text: str) -> None:
    thing = json.loads(text)
    ours = SCHEMAS.get((thing["apiVersion"], thing["kind"]))
    try:
        if ours is not None:
            ours.validate(thing)
        else:
            kubernetes_validate.validate(thing, VERSION, strict=True)
    except jsonschema.ValidationError as error:
        path = ".".join(str(part) for part in error.absolute_path)
        raise InvalidError(f"{label(thing)}: {path}: {error.message}") from error
    except kubernetes_validate.SchemaNotFoundError as error:
        raise InvalidError(f"{label(thing)}: no schema for {thing['apiVersion']} {thing['kind']}") from error

"""What the OpenAPI document says of the hooks, which are answered below FastAPI: one path for each source."""

from typing import Any

from shipway.triggers.answers import HookAnswer
from shipway.triggers.auth import Auth, Bearer, GitHubSignature, SignedBody
from shipway.triggers.hooks import hook_path
from shipway.triggers.settings import AppSettings, Hook
from shipway.triggers.sources import alertmanager, cloudevents, github

_REFERENCE = "#/components/schemas/{model}"
_SCHEMES: dict[type[Auth], tuple[str, dict[str, Any]]] = {
    Bearer: ("bearer", {"type": "http", "scheme": "bearer"}),
    SignedBody: (
        "signature",
        {
            "type": "apiKey",
            "in": "header",
            "name": "X-Shipway-Signature",
            "description": "sha256= and the HMAC-SHA256 of TIMESTAMP.BODY in hexadecimal digits; X-Shipway-Timestamp "
            "has the timestamp, in seconds since the epoch.",
        },
    ),
    GitHubSignature: ("github", {"type": "apiKey", "in": "header", "name": "X-Hub-Signature-256"}),
}
_REFUSALS = {
    400: "Malformed.",
    401: "Not let in.",
    403: "Not let in.",
    405: "Not POST.",
    408: "The body was too slow to come.",
    409: "This very signed message was taken before.",
    413: "Too large.",
    415: "Another content type.",
    429: "Too many requests.",
    503: "Not stored; send it again.",
}
_TEXTS = {"/": "text/html", "/view/{alert_id}": "text/html", "/metrics": "text/plain"}
_OBJECT: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_CONTENT: dict[str, dict[str, Any]] = {
    "alertmanager": {"application/json": {"schema": alertmanager.SCHEMA}},
    "cloudevents": {
        cloudevents.STRUCTURED: {"schema": cloudevents.SCHEMA},
        cloudevents.BATCH: {"schema": {"type": "array", "items": cloudevents.SCHEMA}},
    },
}


def describe(document: dict[str, Any], settings: AppSettings) -> None:
    """Adds the hooks, and who may call what, to an OpenAPI document.

    Args:
        document: The document of the other routes; changed in place.
        settings: The sources and readers.
    """
    components = document.setdefault("components", {})
    answer = HookAnswer.model_json_schema(ref_template=_REFERENCE)
    components.setdefault("schemas", {}).update({**answer.pop("$defs"), HookAnswer.__name__: answer})
    auths = [settings.readers, *(hook.auth for hook in settings.hooks.values())]
    components["securitySchemes"] = dict(_SCHEMES[type(auth)] for auth in auths if type(auth) in _SCHEMES)
    for path in ("/alerts", "/alerts/{alert_id}", "/runs", "/", "/view/{alert_id}"):
        document["paths"][path]["get"].update(_security(settings.readers))
    for path, kind in _TEXTS.items():
        document["paths"][path]["get"]["responses"]["200"]["content"] = {kind: {"schema": {"type": "string"}}}
    for name, hook in settings.hooks.items():
        document["paths"][hook_path(name)] = {"post": _hook(name, hook)}


def _hook(name: str, hook: Hook) -> dict[str, Any]:
    header = {
        "name": github.EVENT,
        "in": "header",
        "required": True,
        "schema": {"type": "string", "pattern": "^[a-z_]{1,60}$"},
    }
    return {
        "operationId": f"hook_{name}",
        "summary": f"Takes events of {name} ({hook.kind}).",
        "parameters": [header] if hook.kind == "github" else [],
        "requestBody": {"required": True, "content": _CONTENT.get(hook.kind, _OBJECT)},
        "responses": {
            "202": {"description": "Stored.", "content": _json(HookAnswer.__name__)},
            **{str(code): {"description": why, "content": _json("ErrorAnswer")} for code, why in _REFUSALS.items()},
        },
        **_security(hook.auth),
    }


def _security(auth: Auth) -> dict[str, Any]:
    return {"security": [{_SCHEMES[type(auth)][0]: []}]} if type(auth) in _SCHEMES else {}


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model)}}}

"""Opening the endpoint that a spec asks for."""

from shipway.endpoints.protocol import Endpoint
from shipway.errors import InputError
from shipway.spec.rollout import EndpointSection, EndpointSettings


def open_endpoint(name: str, settings: EndpointSettings, environment: str) -> Endpoint:
    """Returns an endpoint, whether or not anything is served there yet; nothing is asked of it.

    Args:
        name: The model's name.
        settings: What the spec says of endpoints; `kind` is set.
        environment: `staging` or `production`.

    Raises:
        InputError: The settings name no kind, or lack what that kind needs.
    """
    kind = settings.endpoint.kind
    # Each kind's library is needed for that kind only.
    if kind == "local":
        from shipway.endpoints.local import LocalEndpoint

        return LocalEndpoint(name, environment=environment, section=settings.endpoint)
    if kind == "kserve":
        from shipway.endpoints.kserve import KServeEndpoint

        return KServeEndpoint(name, settings, environment)
    if kind == "vertex":
        from shipway.endpoints.vertex import VertexEndpoint

        return VertexEndpoint(name, settings, environment)
    raise InputError(f"endpoint of {name}: its settings name no kind; expected local, kserve or vertex")


def log_uri(name: str, section: EndpointSection) -> str:
    """Returns where production's prediction log is; "" where there is none."""
    if not section.log.share:
        return ""
    if section.log.uri is None and section.kind == "local":
        from shipway.endpoints.local_server import predictions_folder

        return str(predictions_folder(name))
    return section.log.uri or ""

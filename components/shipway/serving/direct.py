"""Answers predictions by their exact path, before a router tries one pattern after the other."""

from collections.abc import Mapping
from typing import Any

from shipway.serving.body import Receive, Scope, Send


class Direct:
    """Middleware that hands a request whose path is known to its endpoint, and all others on.

    A server has one model, so that the paths of its predictions are few and fixed. The router and what stands around it
    take half as long again as the prediction.

    Args:
        app: What answers the other paths.
        endpoints: Path -> ASGI endpoint.
    """

    def __init__(self, app: Any, endpoints: Mapping[str, Any]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
        else:
            scope["path_params"] = {}
            await endpoint(scope, receive, send)

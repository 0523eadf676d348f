"""Servers that ours is measured beside, around one package: `peers.py bare|fastapi|kserve|kserve-quiet PACKAGE PORT`.

Each reads the same request, turns its rows into columns with the package's own reader, and runs the same ONNX session.
"""

import sys
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

from shipway.model.package import Package

QUIET = {"log_level": "warning", "access_log": False}


def bare(package: Package, port: int) -> None:
    """Nothing but ASGI, one path: what a Python server can do at most."""
    import orjson
    import uvicorn

    async def app(_: MutableMapping[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        message = await receive()
        content = message["body"]
        while message.get("more_body"):
            message = await receive()
            content += message["body"]
        rows = orjson.loads(content)["instances"]
        prediction = package.predict_columns(package.columns_from_rows(rows))
        body = orjson.dumps({"predictions": prediction.tolist()})
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(app, host="127.0.0.1", port=port, lifespan="off", **QUIET)


def fastapi(package: Package, port: int) -> None:
    """FastAPI with an async endpoint, the body parsed and written by orjson."""
    import orjson
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        rows = orjson.loads(await request.body())["instances"]
        prediction = package.predict_columns(package.columns_from_rows(rows))
        return Response(orjson.dumps({"predictions": prediction.tolist()}), media_type="application/json")

    uvicorn.run(app, host="127.0.0.1", port=port, **QUIET)


def kserve(package: Package, port: int, quiet: bool = False) -> None:
    """KServe's own Python server with a custom model, one worker; quiet: without its access log and its timings."""
    import logging

    from kserve import Model, ModelServer

    class Flights(Model):
        def __init__(self) -> None:
            super().__init__("flights")
            self.ready = True

        def load(self) -> bool:
            return True

        async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:  # noqa: ARG002
            prediction = package.predict_columns(package.columns_from_rows(payload["instances"]))
            return {"predictions": prediction.tolist()}

    if quiet:
        logging.disable(logging.INFO)
    server = ModelServer(http_port=port, enable_grpc=False, workers=1)
    server.start([Flights()])


if __name__ == "__main__":
    kind, folder, number = sys.argv[1:]
    servers = {"bare": bare, "fastapi": fastapi, "kserve": kserve, "kserve-quiet": partial(kserve, quiet=True)}
    servers[kind](Package.load(folder), int(number))

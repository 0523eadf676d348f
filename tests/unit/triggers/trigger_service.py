"""The application on a real socket, and the requests that callers send to it."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from shipway.triggers.app import create_app
from shipway.triggers.exposition import Telemetry
from shipway.triggers.routes import load_routes
from shipway.triggers.settings import app_settings
from shipway.triggers.store import Store

TOKEN, GITHUB, PARTNER, READER = "token-of-the-events", "secret-of-github", "key-of-the-partner", "token-of-readers"
SECRETS = {"EVENTS": TOKEN, "GITHUB_SECRET": GITHUB, "PARTNER": PARTNER, "READER": READER}
ROUTES = """
sources:
  shipway: {kind: cloudevents, auth: {bearer: EVENTS}}
  signed: {kind: cloudevents, auth: {hmac: PARTNER}}
  alertmanager: {kind: alertmanager, auth: {bearer: EVENTS}}
  github: {kind: github, auth: {github: GITHUB_SECRET}}
  partner: {kind: json, auth: {hmac: PARTNER}, fingerprint: order.id, labels: {country: order.country}}
  plain: {kind: json, auth: {bearer: EVENTS}, event: data, title: text}
readers: {bearer: READER}
limits: {body: 64Ki, depth: 20}
"""
BEARER = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class EngineStandIn:
    """Stands where the engine stands, and counts how often it was woken."""

    running: bool = True
    alive: bool = True
    woken: threading.Event = field(default_factory=threading.Event)

    def wake(self) -> None:
        self.woken.set()


@dataclass
class Service:
    """A service that runs."""

    url: str
    app: FastAPI
    store: Store
    engine: EngineStandIn
    client: httpx.Client

    def post(self, source: str, body: bytes | Any, headers: dict[str, str] | None = None) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json", **(headers or {})}
        return self.client.post(f"/hooks/{source}", content=content, headers=given)

    def read(self, path: str) -> httpx.Response:
        return self.client.get(path, headers={"authorization": f"Bearer {READER}"})


@contextmanager
def serving(folder: Path, routes: str = ROUTES, url: str = "") -> Iterator[Service]:
    (folder / "routes.yaml").write_text(routes)
    settings = app_settings(load_routes(folder / "routes.yaml"), SECRETS)
    store, engine = Store(url or f"sqlite:///{folder / 'trigger.db'}"), EngineStandIn()
    app = create_app(settings, store, engine, Telemetry())
    with listening(app) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield Service(address, app, store, engine, client)
    store.close()


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def signed(body: bytes, key: str = PARTNER, stamp: float | None = None) -> dict[str, str]:
    moment = str(int(time.time() if stamp is None else stamp))
    digest = hmac.new(key.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return {"x-shipway-timestamp": moment, "x-shipway-signature": f"sha256={digest}"}


def github_headers(body: bytes, event: str, key: str = GITHUB, delivery: str = "d-1") -> dict[str, str]:
    digest = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}", "x-github-event": event, "x-github-delivery": delivery}


def notification(*names: str, status: str = "firing", **labels: str) -> dict[str, Any]:
    alerts = [
        {
            "status": status,
            "labels": {"alertname": "ErrorRate", "model": "flights", "instance": name, **labels},
            "annotations": {"summary": f"{name} fails"},
            "startsAt": "2026-01-31T12:00:00Z",
            "fingerprint": f"f-{name}",
        }
        for name in names
    ]
    return {"version": "4", "groupKey": "{}", "status": status, "receiver": "shipway", "alerts": alerts}


def own_event(kind: str, identity: str = "1", **facts: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": identity,
        "type": f"dev.shipway.{kind}",
        "source": "/shipway/models/flights",
        "subject": "flights",
        "time": "2026-01-31T12:00:00Z",
        "data": {
            "model": "flights",
            "kind": kind,
            "severity": "warning",
            "text": "flights has drifted",
            "facts": facts,
        },
    }

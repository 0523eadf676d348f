"""A real service that is killed while alerts come in: whatever it acknowledged is in its store, once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from trigger_service import BEARER, TOKEN, notification

from shipway.triggers.store import Store, alert_id

ROUTES = """
sources:
  alertmanager: {kind: alertmanager, auth: {bearer: EVENTS}}
"""


def start(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    command = [*(sys.executable, "-m", "shipway.cli", "trigger", "serve", str(folder / "routes.yaml")), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--state", str(folder)],
        env={**os.environ, "EVENTS": TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, line.partition("http://")[2].partition(",")[0]


async def send(address: str, process: "subprocess.Popen[str]", moment: int, acknowledged: dict[str, str]) -> None:
    """Sends alerts over eight connections until the service is gone; it is killed after so many acknowledgements."""
    numbers = iter(range(len(acknowledged), 100_000))

    async def sender() -> None:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
            for number in numbers:
                name = f"{process.pid}-{number}"
                body = json.dumps(notification(name))
                headers = {**BEARER, "content-type": "application/json"}
                try:
                    answer = await client.post("/hooks/alertmanager", content=body, headers=headers)
                except httpx.TransportError:
                    return
                assert answer.status_code == 202
                acknowledged[name] = answer.json()["alerts"][0]["id"]
                if len(acknowledged) >= moment:
                    process.send_signal(signal.SIGKILL)

    await asyncio.gather(*(sender() for _ in range(8)))


@pytest.mark.slow
def test_what_was_acknowledged_outlives_kill_9(tmp_path):
    (tmp_path / "routes.yaml").write_text(ROUTES)
    acknowledged: dict[str, str] = {}
    for more in (73, 128):
        process, address = start(tmp_path)
        try:
            asyncio.run(send(address, process, len(acknowledged) + more, acknowledged))
            assert process.wait(30) == -signal.SIGKILL
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    store = Store(f"sqlite:///{tmp_path / 'trigger.db'}")
    found = {one["id"]: one for one in store.alerts(limit=1000)}
    store.close()
    assert len(acknowledged) > 100
    assert set(acknowledged.values()) <= set(found)
    # At most what was under way when it was killed is there without having been acknowledged.
    assert len(found) - len(acknowledged) <= 16
    for name, key in acknowledged.items():
        assert found[key]["count"] == 1
        assert key == alert_id("alertmanager", f"f-{name} 2026-01-31T12:00:00Z firing")

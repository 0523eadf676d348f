"""The routes file: what it may say, and how each fault is told."""

from pathlib import Path
from typing import Any

import pytest
from trigger_parts import NOON, PENGUINS, route, routes

from shipway.errors import InputError, SpecError
from shipway.triggers.routes import load_routes

WHOLE = f"""\
sources:
  shipway: {{kind: cloudevents, auth: {{bearer: SHIPWAY_EVENTS_TOKEN}}}}
  github: {{kind: github, auth: {{github: GITHUB_WEBHOOK_SECRET}}}}
  partner: {{kind: json, auth: {{hmac: PARTNER_SECRET}}, fingerprint: "id", labels: {{name: "a.b"}}}}
readers: {{bearer: SHIPWAY_READ_TOKEN}}
limits: {{body: 64Ki, rate: 90/m, skew: 1m, keep: 7d}}
specs: {{penguins: {{spec: {PENGUINS}, target: local}}}}
routes:
  - name: retrain-on-drift
    on: {{source: shipway, kind: alert, labels: {{kind: drift, decision: [retrain, "/ro.*/"]}}}}
    start: {{spec: penguins, pipeline: training, set: {{split.test: "`0.2`", train.epochs: 3}}}}
    cooldown: 6h
    debounce: 2m
    quota: 4
    concurrent: 1
    quiet: ["22:00-06:00"]
    timezone: Europe/Berlin
  - {{name: back, on: {{labels: {{a: b}}}}, do: rollback, spec: penguins}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "routes.yaml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    found = load_routes(written(tmp_path, WHOLE))
    first, second = found.routes
    assert found.sources["partner"].auth is not None
    assert found.sources["partner"].auth.hmac == "PARTNER_SECRET"
    assert (found.limits.body_bytes, found.limits.rate_per_second) == (65536, 1.5)
    assert (found.limits.skew_seconds, found.limits.keep_seconds) == (60, 7 * 86400)
    assert first.on.source == ["shipway"]
    assert first.on.labels == {"kind": ["drift"], "decision": ["retrain", "/ro.*/"]}
    assert (first.seconds("cooldown"), first.seconds("debounce")) == (21600, 120)
    assert second.seconds("cooldown") == 0
    assert (first.runnable, second.runnable) == ("penguins", "penguins")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cooldown: 6h", "cooldwn: 6h", r":12: routes\.0\.cooldwn: unknown key; did you mean 'cooldown'\?"),
        ("cooldown: 6h", "cooldown: 6", r":12: routes\.0\.cooldown: expected a number and s, m, h or d"),
        ("auth: {bearer", "auth: {beare", r":2: sources\.shipway\.auth\.beare: unknown key; did you mean 'bearer'"),
        ("{hmac: P", "{bearer: A, hmac: P", r":4: sources\.partner\.auth: expected one of bearer, hmac and github"),
        (
            "{bearer: SHIPWAY_EVENTS_TOKEN}",
            "{github: A}",
            r":2: sources\.shipway\.auth\.github: belongs to kind github",
        ),
        ('"id"', '"id["', r":4: sources\.partner\.fingerprint: expected a JMESPath expression"),
        ('"a.b"', '"nosuch(a)"', r":4: sources\.partner\.labels\.name: expected a JMESPath .* Unknown function"),
        ("kind: github,", "kind: github, title: a,", r":3: sources\.github\.title: belongs to kind json"),
        ("90/m", "many", r":6: limits\.rate: expected a number a second, minute or hour"),
        ("/ro.*/", "/(ro/", r":10: routes\.0\.on\.labels\.decision\.1: expected a regular expression"),
        ("pipeline: training", "pipeline: trainin", r":11: routes\.0\.start\.pipeline: expected training, "),
        (
            "start: {",
            "start: {parameters: {to: a}, ",
            r":11: routes\.0\.start\.parameters\.to: pipeline training takes",
        ),
        ("start: {", "start: {source: a, ", r":11: routes\.0\.start\.within: required with a source"),
        (
            "start: {",
            "start: {source: a, within: 's3://bucket', ",
            r":11: routes\.0\.start\.within: s3://bucket is the beginning of other names too; expected s3://bucket/",
        ),
        ("epochs: 3", "epochs: [3]", r":11: routes\.0\.start\.set\.train\.epochs"),
        ("train.epochs", "epochs", r":11: routes\.0\.start\.set\.epochs: expected SECTION\.KEY"),
        ("22:00-06:00", "22-6", r":16: routes\.0\.quiet\.0: expected hours of a day"),
        ("Europe/Berlin", "Mars/Base", r":17: routes\.0\.timezone: expected a time zone"),
        ("do: rollback, spec: penguins", "do: rollback", r":18: routes\.1\.spec: required with do: rollback"),
        ("do: rollback", "do: explode", r":18: routes\.1\.do: expected 'rollback', 'halt' or 'alert'"),
        ("do: rollback, ", "", r":18: routes\.1: expected one of start and do, found none"),
        ("name: back", "name: retrain-on-drift", r":18: routes\.1\.name: there are two routes 'retrain-on-drift'"),
        ("source: shipway,", "source: nobody,", r":10: routes\.0\.on\.source: no source 'nobody'; there are shipway"),
        ("start: {spec: penguins", "start: {spec: gulls", r":11: routes\.0\.start\.spec: no spec 'gulls' in specs"),
        ("name: back", "name: Back!", r":18: routes\.1\.name: expected lower-case letters"),
        ("    quota: 4", "    quota: 0", r":14: routes\.0\.quota: "),
        ("do: rollback", "unchanged: skip, do: rollback", r":18: routes\.1\.unchanged: belongs to the start"),
    ],
)
def test_each_fault_is_told_with_its_line_and_path(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in WHOLE
    with pytest.raises(SpecError, match=told):
        load_routes(written(tmp_path, WHOLE.replace(old, new, 1)))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such routes file"):
        load_routes(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=r"specs\.penguins\.spec: no such file: .*/gone\.yaml"):
        load_routes(written(tmp_path, WHOLE.replace(str(PENGUINS), "gone.yaml")))


def test_a_spec_is_found_from_the_folder_of_the_routes_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "shipway.yaml").touch()
    found = load_routes(written(tmp_path, WHOLE.replace(str(PENGUINS), "model/shipway.yaml")))
    assert found.specs["penguins"].spec == tmp_path / "model" / "shipway.yaml"


@pytest.mark.parametrize(
    ("hours", "zone", "shift", "until"),
    [
        ("22:00-06:00", "UTC", 0, None),
        ("11:00-13:00", "UTC", 0, 3600),
        ("12:00-12:30", "UTC", 0, 1800),
        ("11:00-12:00", "UTC", 0, None),
        ("22:00-06:00", "UTC", 11 * 3600, 7 * 3600),  # 23:00, until 06:00 of the next day
        ("22:00-06:00", "UTC", 17 * 3600, 3600),  # 05:00
        ("22:00-06:00", "Asia/Tokyo", 3600, 8 * 3600),  # 22:00 there
    ],
)
def test_quiet_hours(tmp_path: Path, hours: str, zone: str, shift: int, until: int | None) -> None:
    given: dict[str, Any] = {"quiet": [hours], "timezone": zone}
    found = routes(tmp_path, route(**given)).routes[0].quiet_until(NOON + shift)
    assert found == (None if until is None else NOON + shift + until)

"""`shipway trigger`: the service that turns alerts into runs, and a dry run of its routes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shipway.errors import InputError

if TYPE_CHECKING:
    from shipway.triggers.incoming import Incoming
    from shipway.triggers.routes import Routes

trigger_app = typer.Typer(
    help="Alerts that start runs: the service, and a dry run of its routes.", no_args_is_help=True
)

RoutesArgument = Annotated[Path, typer.Argument(metavar="ROUTES", help="The routes file.")]


@trigger_app.command()
def serve(
    routes: RoutesArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback demand authentication.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8090,
    database: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="sqlite:///PATH or postgresql://...; default: $SHIPWAY_DATABASE_URL, else the state folder.",
        ),
    ] = "",
    state: Annotated[
        Path | None, typer.Option(help="State folder of the service and of runs on this machine; default: .shipway.")
    ] = None,
) -> None:
    """Take alerts in and start what the routes say, until it is ended."""
    from shipway.triggers.service import serve as run

    run(routes, host=host, port=port, database=database, state=state)


@trigger_app.command(name="test")
def dry_run(
    routes: RoutesArgument,
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD", help="File with a request's body; - for standard input.")
    ],
    source: Annotated[str, typer.Option(help="The source that would send it.")],
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME: VALUE", help="A header of the request.")
    ] = None,
) -> None:
    """Show what a payload would start, and why; nothing is stored or started, and no secret is needed."""
    from shipway.serving.limits import Refusal
    from shipway.triggers.routes import load_routes
    from shipway.triggers.settings import reading_of
    from shipway.triggers.sources.call import Call
    from shipway.triggers.sources.kinds import read_call

    loaded = load_routes(routes)
    if source not in loaded.sources:
        raise InputError(f"--source: expected {', '.join(loaded.sources)}, found {source!r}")
    headers = {"content-type": "application/json", **_headers(header or [])}
    sender = loaded.sources[source]
    signed = sender.auth is not None and sender.auth.bearer is None
    call = Call(headers=headers, body=_body(payload), signed=signed, depth=loaded.limits.depth)
    try:
        found = read_call(sender.kind, call, reading_of(source, sender))
    except Refusal as refusal:
        raise InputError(f"{payload}: it would be refused: {refusal}") from refusal
    for delivery in found:
        typer.echo("\n".join(_told(delivery.incoming, loaded)))
    if not found:
        typer.echo("nothing in it is an event")


def _headers(given: list[str]) -> dict[str, str]:
    found = {}
    for entry in given:
        name, colon, value = entry.partition(":")
        if not colon or not name.strip():
            raise InputError(f"--header {entry}: expected NAME: VALUE")
        found[name.strip().lower()] = value.strip()
    return found


def _body(payload: str) -> bytes:
    if payload == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(payload).read_bytes()
    except OSError as error:
        raise InputError(f"{payload}: cannot be read: {error.strerror}") from error


def _told(alert: "Incoming", routes: "Routes") -> list[str]:
    import time

    from shipway.triggers.decide import decide
    from shipway.triggers.match import mismatch

    labels = ", ".join(f"{name}={value}" for name, value in sorted(alert.labels.items()))
    lines = [f"{alert.title}", f"  kind {alert.kind}, fingerprint {alert.fingerprint}", f"  labels {labels or 'none'}"]
    decided = {decision.route: decision for decision in decide(alert, routes, time.time())}
    if "" in decided and alert.resolved:
        return [*lines, f"  nothing: {decided[''].reason}"]
    for route in routes.routes:
        decision = decided.get(route.name)
        if decision is None:
            lines.append(f"  {route.name}: no: {mismatch(alert, route)}")
        elif decision.state == "failed":
            lines.append(f"  {route.name}: cannot: {decision.reason}")
        else:
            lines.append(f"  {route.name}: yes, key {decision.key}: {_action(decision.action)}")
            limits = [
                f"{name} {value}"
                for name in ("cooldown", "debounce", "quota", "concurrent", "quiet")
                if (value := getattr(route, name))
            ]
            if limits:
                lines.append(f"    within {', '.join(limits)}")
    return lines


def _action(action: dict[str, object]) -> str:
    if action["do"] != "start":
        return f"{action['do']} of {action['spec']}"
    words = [f"start {action['pipeline']} of {action['spec']}"]
    settings, parameters = action["settings"], action["parameters"]
    words += [f"--set {entry}" for entry in settings] if isinstance(settings, list) else []
    words += (
        [f"--parameter {name}={value}" for name, value in parameters.items()] if isinstance(parameters, dict) else []
    )
    words += [f"--data {action['source']}"] if action["source"] else []
    words += ["unless its rows are unchanged"] if action["unchanged"] == "skip" else []
    return " ".join(words)

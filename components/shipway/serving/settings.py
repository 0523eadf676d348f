"""How a server process is set up: the command line, then the environment.

Vertex sets AIP_HTTP_PORT, AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE and AIP_STORAGE_URI; they fill in what the command line
leaves open. The token for administration comes from a file or from SHIPWAY_SERVING_TOKEN, never from the command line,
which every user of the machine can read.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shipway.errors import InputError
from shipway.serving.app import AppSettings
from shipway.serving.limits import MIB, Limits

TOKEN_VARIABLE = "SHIPWAY_SERVING_TOKEN"  # noqa: S105 - the variable's name, not its value
HOST_VARIABLE = "SHIPWAY_SERVING_HOST"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """A server process.

    Attributes:
        package: The package's folder, or an fsspec URI of it.
        name: The model's name in URLs; "" takes the package's own.
        version: The version told to callers; "" takes the beginning of the digest.
        digest: The digest that the package must have; None trusts the bytes.
        host: The address to listen on.
        port: The port; 0 takes any.
        prefer_port: With port 0: the port to take when it is free; 0 for none.
        state_file: Where the process holds its claim; None for none.
        app: The application's settings.
    """

    package: str
    name: str
    version: str
    digest: str | None
    host: str
    port: int
    prefer_port: int
    state_file: Path | None
    app: AppSettings


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerSettings:
    """Reads the command line and the environment.

    Raises:
        InputError: A value cannot work.
        SystemExit: The command line is malformed, or asks for help.
    """
    # A container answers its network.
    address = "0.0.0.0" if "AIP_HTTP_PORT" in environment else "127.0.0.1"  # noqa: S104
    options = _parser().parse_args(arguments)
    package = options.package or environment.get("AIP_STORAGE_URI", "")
    if not package:
        raise InputError("--package: expected the folder of a model package (or AIP_STORAGE_URI)")
    for flag, value in (("--name", options.name), ("--version", options.version)):
        if value and not re.fullmatch(_NAME, value):
            raise InputError(f"{flag}: expected letters, digits, dots, dashes and underscores, found {value!r}")
    return ServerSettings(
        package=package,
        name=options.name,
        version=options.version,
        digest=options.digest,
        host=options.host or environment.get(HOST_VARIABLE) or address,
        port=_port(options.port, environment),
        prefer_port=options.prefer_port,
        state_file=options.state_file,
        app=AppSettings(
            limits=Limits(
                body_bytes=options.max_body_bytes, rows=options.max_rows, body_seconds=options.max_body_seconds
            ),
            token=_token(options.token_file, environment),
            instance=options.instance,
            health_route=_route(environment, "AIP_HEALTH_ROUTE"),
            predict_route=_route(environment, "AIP_PREDICT_ROUTE"),
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shipway.serving", description="Serves a model package over HTTP.")
    parser.add_argument("--package", default="", help="folder or fsspec URI of the package (else AIP_STORAGE_URI)")
    parser.add_argument("--name", default="", help="the model's name in URLs (else the package's own)")
    parser.add_argument("--version", default="", help="the version told to callers (else from the digest)")
    parser.add_argument("--digest", default=None, help="refuse the package unless it has this digest")
    parser.add_argument("--host", default="", help=f"address to listen on (else {HOST_VARIABLE}, else 127.0.0.1)")
    parser.add_argument("--port", type=int, default=None, help="port, 0 for any (else AIP_HTTP_PORT, else 8080)")
    parser.add_argument("--prefer-port", type=int, default=0, help="with --port 0: the port to take when it is free")
    parser.add_argument(
        "--token-file", type=Path, default=None, help=f"bearer token (else {TOKEN_VARIABLE}, else none)"
    )
    parser.add_argument("--state-file", type=Path, default=None, help="file to lock and to announce pid and port in")
    parser.add_argument("--instance", default="", help="an id of this process, told at /v2")
    parser.add_argument("--max-body-bytes", type=int, default=8 * MIB, help="largest request body (8 MiB)")
    parser.add_argument("--max-body-seconds", type=float, default=30.0, help="longest time to send a body (30 s)")
    parser.add_argument("--max-rows", type=int, default=10_000, help="most rows a request (10,000)")
    return parser


def _port(given: int | None, environment: Mapping[str, str]) -> int:
    text = str(given) if given is not None else environment.get("AIP_HTTP_PORT", "8080")
    if not text.isdigit() or int(text) > 65_535:
        raise InputError(f"port: expected 0 to 65535, found {text!r}")
    return int(text)


def _route(environment: Mapping[str, str], variable: str) -> str:
    route = environment.get(variable, "")
    if route and (not route.startswith("/") or "{" in route):
        raise InputError(f"{variable}: expected a path beginning with /, found {route!r}")
    return route


def _token(file: Path | None, environment: Mapping[str, str]) -> str:
    if file is None:
        return environment.get(TOKEN_VARIABLE, "").strip()
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise InputError(f"--token-file: cannot read {file}: {error.strerror}") from error
    if not token:
        raise InputError(f"--token-file: {file} is empty")
    return token

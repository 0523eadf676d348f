"""`python -m shipway.serving.health`: is the server of this container ready? The image's health check.

It asks where the server listens by default: on AIP_HTTP_PORT, else on 8080.
"""

import http.client
import os
import sys

_SECONDS = 3.0


def main() -> int:
    """Returns 0 when the server is ready, else 1 with the reason on standard error."""
    port = os.environ.get("AIP_HTTP_PORT", "8080")
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=_SECONDS)
    try:
        connection.request("GET", "/v2/health/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"port {port}: {error}", file=sys.stderr)
        return 1
    if status != http.client.OK:
        print(f"port {port}: not ready (HTTP {status})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The endpoint on KServe with Knative, as a subject of the contract."""

from contextlib import AbstractContextManager
from pathlib import Path

import endpoint_kserve


def subject(folder: Path) -> AbstractContextManager[endpoint_kserve.KServeSubject]:
    return endpoint_kserve.subject(folder, "serverless")

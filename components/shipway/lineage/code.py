"""What a stage's own code amounts to, so that a cached step goes stale when its code changes.

KFP's cache key covers a component's image and source. Ours is a thin wrapper over this package, so the key also
needs the package: each step carries the digest of its stage's folder and of what all stages share.
"""

from functools import cache
from pathlib import Path

from shipway.lineage.digests import digest_json, digest_tree

CODE_VARIABLE = "SHIPWAY_CODE"
_SHARED = ("dataset", "lineage", "model", "spec")


@cache
def code_digest(stage: str) -> str:
    """Returns the digest of a stage's code and the shared packages below it.

    Args:
        stage: A stage's folder name, as `train`.
    """
    package = Path(__file__).parent.parent
    return digest_json([digest_tree(package / folder) for folder in (stage, *_SHARED)])

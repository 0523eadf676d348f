"""The version of the user's code."""

import os
import subprocess
from pathlib import Path

SHA_VARIABLE = "SHIPWAY_GIT_SHA"


def git_sha(folder: str | Path) -> str:
    """Returns the commit that a folder is at, for lineage.

    It is `$SHIPWAY_GIT_SHA` where that is set (an image has no git), else `git rev-parse HEAD`, with `-dirty` behind it
    when tracked files differ from the commit or untracked ones lie in the folder; `unknown` outside a repository or
    without git.
    """
    named = os.environ.get(SHA_VARIABLE)
    if named:
        return named
    sha = _git(folder, "rev-parse", "HEAD")
    if not sha:
        return "unknown"
    return f"{sha}-dirty" if _git(folder, "status", "--porcelain", "--", ".") else sha


def _git(folder: str | Path, *arguments: str) -> str:
    """Returns what a git command printed, "" when it failed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

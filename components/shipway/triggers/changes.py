"""What a push has changed, so that one that touches only the documentation starts nothing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from shipway.triggers.expression import expression
from shipway.triggers.routes import Paths

# GitHub leaves out a push's commits beyond this many.
_MOST_COMMITS = 2048
_PARTS = re.compile(r"(\*\*/|\*\*|\*|\?)")
_MEANING = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def changed_paths(payload: Mapping[str, Any], where: str | None = None) -> list[str] | None:
    """Returns the files that an event says were changed, or None where it does not say.

    Args:
        payload: The event; without `where` a GitHub push.
        where: JMESPath of the list of files.

    Raises:
        InputError: The expression does not fit the payload.
    """
    if where is not None:
        found = expression(where).find(payload)
        return [str(path) for path in found] if isinstance(found, list) else None
    commits = payload.get("commits")
    if not isinstance(commits, list) or not commits or len(commits) >= _MOST_COMMITS:
        return None
    lists = [commit.get(name) for commit in commits if isinstance(commit, Mapping) for name in _LISTS]
    if len(lists) < len(commits) * len(_LISTS) or not all(isinstance(entry, list) for entry in lists):
        return None
    return sorted({str(path) for entry in lists if isinstance(entry, list) for path in entry})


_LISTS = ("added", "modified", "removed")


def what_counts(changed: Iterable[str], paths: Paths) -> list[str]:
    """Returns the changed files that a route's `paths` leave."""
    return [
        path
        for path in changed
        if (not paths.only or _any_fits(tuple(paths.only), path)) and not _any_fits(tuple(paths.ignore), path)
    ]


def _any_fits(globs: Sequence[str], path: str) -> bool:
    return any(_pattern(glob).fullmatch(path) for glob in globs)


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    """Compiles a glob: `*` stays in a folder, `**` does not; without a slash it is a file's name in any folder."""
    written = glob if "/" in glob else f"**/{glob}"
    return re.compile("".join(_MEANING.get(part) or re.escape(part) for part in _PARTS.split(written)), re.DOTALL)

"""A cheap digest of what a source holds now: a cached ingest step is taken again only while that is the same."""

from typing import Any

from shipway.errors import InputError
from shipway.ingest.source import find_files, named_uri
from shipway.lineage.digests import digest_json
from shipway.lineage.project import import_digest, load_object, split_import_path, user_code
from shipway.lineage.storage import mark
from shipway.lineage.storage_errors import reaching
from shipway.spec import DataSection


def fingerprint(data: DataSection, source: str) -> str:
    """Returns a digest that changes when the source does; "" means unknown, and that ingest must not be cached.

    Files are told by path, size and the mark that their filesystem keeps (ETag, hash, time of change). A loader
    is told by its file's digest and by what its module's own `fingerprint()` returns; without such a function, unknown.

    Args:
        data: The spec's data section.
        source: URI or glob to read instead; "" for none.

    Raises:
        InputError: There is no such file, or no such loader.
        UserCodeError: The user's `fingerprint` raised.
    """
    uri = named_uri(data, source)
    if uri is None:
        return _loader_fingerprint(str(data.loader))
    marks = []
    for file in find_files(uri, data.format):
        with reaching(file.name):
            info = file.filesystem.info(file.path)
            marks.append([file.name, info.get("size"), mark(file.filesystem, file.path, info)])
    return digest_json(marks)


def _loader_fingerprint(loader: str) -> str:
    code = import_digest(loader, "data.loader")
    load_object(loader, "data.loader")
    module, _ = split_import_path(loader)
    own: Any = _module_attribute(module, "fingerprint")
    if own is None:
        return ""
    with user_code(f"data.loader {module}:fingerprint"):
        said = own()
    if not isinstance(said, str):
        raise InputError(f"data.loader: {module}:fingerprint() must return text, found {type(said).__name__}")
    return digest_json([code, said]) if said else ""


def _module_attribute(module: str, name: str) -> Any:
    try:
        return load_object(f"{module}:{name}", "data.loader")
    except InputError:
        return None

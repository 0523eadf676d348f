"""KFP component: source -> Dataset."""

from kfp.dsl import Dataset, Output

from shipway.component import component


@component()
def ingest(dataset: Output[Dataset], data: str, source: str = "", fingerprint: str = "") -> str:
    """Reads Parquet, CSV or a loader's frames into a dataset and returns its version, a hash of its rows.

    Args:
        dataset: The rows, as a folder of Parquet parts.
        data: The spec's data section, as JSON.
        source: URI or glob to read instead of what the section names.
        fingerprint: Digest of what the source holds now; it only decides whether a cached result is still good.
    """
    from shipway.ingest.read import ingest as run
    from shipway.lineage.steps import step
    from shipway.spec import DataSection, load_section

    with step("ingest", dataset.path) as record:
        info = run(load_section(DataSection, data), source, dataset.path)
        dataset.metadata.update(data_version=info.version, rows=info.rows)
        record.show(data_version=info.version, rows=info.rows, sources=info.sources[:5], fingerprint=fingerprint)
        return info.version

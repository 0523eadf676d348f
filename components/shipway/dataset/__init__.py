"""Datasets: a folder of Parquet parts with a small manifest, read and written in bounded memory."""

from shipway.dataset.content import ContentHash, row_hashes
from shipway.dataset.parts import DatasetInfo, DatasetWriter, batches, read_info, scan

__all__ = ["ContentHash", "DatasetInfo", "DatasetWriter", "batches", "read_info", "row_hashes", "scan"]

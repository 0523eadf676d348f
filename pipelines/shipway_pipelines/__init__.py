"""Shipway pipelines: the DAGs."""

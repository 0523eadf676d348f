"""Shipway: continuous training and delivery of models on Kubeflow Pipelines and Vertex AI."""

__version__ = "0.1.0"

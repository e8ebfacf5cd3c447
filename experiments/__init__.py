"""Experiments: ml_collections configs only; nothing here imports instructrl."""

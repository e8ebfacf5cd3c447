"""TFDS builders that store records as ArrayRecord files."""

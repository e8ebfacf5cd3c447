"""Curation: duplicates, splits, personal data and lengths."""

"""Data sources: one file for each public data set, and own files."""

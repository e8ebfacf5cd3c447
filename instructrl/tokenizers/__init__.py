"""Tokenizers: one protocol, the trained kind, the imported kind, and layouts."""

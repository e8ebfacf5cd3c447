"""Tokenizers: the protocol, trained and imported ones, and prompt layouts."""

"""Ablations of the paper (appendices C and E), for `instructrl.sweep`."""

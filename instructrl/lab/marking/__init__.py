"""Marking of answers against what their prompts ask for."""

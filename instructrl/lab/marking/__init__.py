"""Marks answers against the specifications of their prompts."""

"""Simulated people: writers of prompts and answers, and labelers."""

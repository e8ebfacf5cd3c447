"""Stages: what a config runs, from checks of its fields to the loop."""

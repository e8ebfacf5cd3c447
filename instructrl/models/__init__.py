"""Models. Flax is used in this folder only; others see plain dicts."""

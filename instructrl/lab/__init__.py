"""The simulated lab: a closed world with a known right answer everywhere."""

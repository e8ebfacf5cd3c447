"""Rewards of PPO: the protocol, and Python functions as rewards."""

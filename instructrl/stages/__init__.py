"""Trainers: where configs stop and become arrays, models and loops."""

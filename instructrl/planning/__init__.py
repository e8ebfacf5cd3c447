"""Plans, costs and FLOP counts of runs, computed before anything is trained."""

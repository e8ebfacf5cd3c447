"""Services: files, run folders, checkpoints, processes, sharding, optimizer."""

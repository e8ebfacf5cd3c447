"""Services for every stage: files, run folders, checkpoints, processes, sharding."""

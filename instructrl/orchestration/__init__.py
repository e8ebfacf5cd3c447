"""Studies and sweeps: graphs of stages, run in order and resumable."""

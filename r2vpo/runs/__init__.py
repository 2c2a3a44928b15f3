"""What a run leaves on disk and shows while it runs: directories, checkpoints, provenance, progress, lists of runs."""

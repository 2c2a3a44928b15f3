"""Accuracy, pass@1 and pass@k on benchmarks."""

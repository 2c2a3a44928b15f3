"""Many runs and what they came to: comparisons, and the figures of the paper."""

"""Many runs: lists of them, the processes that work them off, and what they came to."""

"""Ratio-variance regularized policy optimization."""

"""Verifiers in processes of their own, confined and limited in time."""

"""Environments: making, checking, stepping many at once, and saving their exact state."""

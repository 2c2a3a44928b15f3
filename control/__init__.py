"""Gaussian policies for continuous control."""

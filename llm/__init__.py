"""Token policies for language models."""

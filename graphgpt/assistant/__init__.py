"""A model to talk to."""

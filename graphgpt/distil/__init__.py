"""Reasons written by a teacher, for chain of thought."""

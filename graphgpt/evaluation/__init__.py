"""Scoring a model and what it is held against."""

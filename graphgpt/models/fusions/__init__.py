"""Fusions: one file each, found by themselves."""

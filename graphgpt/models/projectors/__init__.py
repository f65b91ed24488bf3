"""Projectors: one file each, found by themselves."""

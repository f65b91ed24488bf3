"""Towers: one file each, found by themselves."""

"""Tasks: one file each, found by themselves."""

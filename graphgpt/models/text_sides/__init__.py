"""Text sides: one file each, found by themselves."""

"""Run folders: what they hold, how they compare."""

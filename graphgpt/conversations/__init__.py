"""Conversations in files: read record by record, checked, and kept memory-mapped."""

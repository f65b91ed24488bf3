"""The commands of ``graphgpt``."""

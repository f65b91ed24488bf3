"""Pictures: what they are on disk and in memory, and how they are read."""

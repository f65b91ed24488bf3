"""How a program starts, and what stops it."""

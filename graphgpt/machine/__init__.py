"""This machine: where the toolkit lies on it, its processors, what is compiled for it."""

"""GraphGPT: a frozen language model learns to read graphs through graph tokens."""

__version__ = "0.1.0"

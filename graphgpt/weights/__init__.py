"""Weights from elsewhere and for elsewhere: read safely, recognised, imported, exported, as differences, and where they come from."""

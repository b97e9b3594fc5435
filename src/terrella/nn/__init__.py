"""Layers with no opinion about worlds."""

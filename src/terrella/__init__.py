"""Terrella."""

"""Pictures without tokens: what draws them from the other streams of the same frame."""

from .field import Field, FieldConfig

__all__ = ["Field", "FieldConfig"]

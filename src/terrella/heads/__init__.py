"""Small networks fitted from recordings on what a world knows: values, policies, inverse dynamics, energies."""

from .base import Head
from .energy import Energy
from .fitting import fit
from .inverse import Inverse
from .policy import Policy
from .value import Value

__all__ = ["Energy", "Head", "Inverse", "Policy", "Value", "fit"]

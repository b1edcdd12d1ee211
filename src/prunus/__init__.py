"""Prune any PyTorch model, prove that what is left is right, show what it gained."""

from prunus._version import __version__

__all__ = ["__version__"]

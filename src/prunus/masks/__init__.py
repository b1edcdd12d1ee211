"""What holds the zeros: masks that live beside a model and survive every optimizer."""

from prunus.masks.mask_set import MaskSet

__all__ = ["MaskSet"]

"""How is the rest mended? Pure functions of weights and Gram matrices, and inverse Fisher blocks."""

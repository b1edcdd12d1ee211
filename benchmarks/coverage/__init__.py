"""The coverage sweep: Prunus over the architectures of torchvision, timm and transformers."""

"""Ratios found by seven ways against one budget, on a ResNet-8."""

"""Reptile and first-order MAML in plain PyTorch loops: the reference the JAX implementation is held against."""

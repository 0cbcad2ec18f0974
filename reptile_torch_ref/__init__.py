"""Reptile and first-order MAML in plain PyTorch loops: the reference for tests of the JAX implementation."""

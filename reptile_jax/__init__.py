"""Reptile meta-learning in JAX and Flax."""

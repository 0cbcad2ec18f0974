"""Proof that reptile_jax is right: parity with reptile_torch_ref, negative controls, and tests of theory."""

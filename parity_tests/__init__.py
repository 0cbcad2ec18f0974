"""What proves reptile_jax right: parity with reptile_torch_ref, negative controls, and independent truths."""

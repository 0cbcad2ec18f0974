"""The algorithm: episodes, the inner loop, the meta-update and the two evaluations, as pure functions of arrays."""

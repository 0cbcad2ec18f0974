"""Code that only tests run: small runs, small archives, a soak, eight devices, two processes."""

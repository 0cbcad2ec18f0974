"""The published runs: what is kept of each, and the tables and plots that are made from it."""

"""Trained initialisations on classes of one's own."""

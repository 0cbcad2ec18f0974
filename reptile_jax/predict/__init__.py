"""Uses trained initialisations for a person's own classes."""

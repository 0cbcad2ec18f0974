"""A page in the browser on which a person draws characters, and sees which one a query is taken for."""

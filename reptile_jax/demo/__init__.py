"""A page in the browser where a person draws characters, and sees which of them a query most resembles."""

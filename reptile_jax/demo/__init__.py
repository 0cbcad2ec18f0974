"""A page in the browser where a person draws characters, and sees how the network classifies another drawing."""

"""Compares this project with recorded results of the released code."""

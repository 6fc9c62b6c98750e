"""Passes over jaxprs, before anything is lowered."""

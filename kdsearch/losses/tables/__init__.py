"""The entries of METHODS, a module for each slot."""

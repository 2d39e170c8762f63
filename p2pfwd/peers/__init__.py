"""Whom we know: addresses with their provenance, the book on disk, names, arguments."""

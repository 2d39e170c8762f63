"""Decisions as pure functions: whom to dial, when, in which order."""

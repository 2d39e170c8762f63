"""Ordered byte pipes with callbacks: TCP, and any of them inside a private network."""

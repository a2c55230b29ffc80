"""Escaping."""

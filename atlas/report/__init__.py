"""Figures about a corpus."""

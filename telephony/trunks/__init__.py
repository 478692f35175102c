"""Trunks: which one takes a call, and in which dialect it wants the number."""

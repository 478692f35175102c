"""Frozen values that every room shares. They know nothing of the project but one another."""

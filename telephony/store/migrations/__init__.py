"""Alembic's scripts: one revision per change of the schema. They never import the tables of today."""

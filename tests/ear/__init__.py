"""An ear that knows nothing of how a clip was made: it hears sound and says which word it was.

What it never does: use the project's own speech code, or a clip of it as its template.
"""

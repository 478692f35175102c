"""Every request we make to somebody else: signing, retries, the guard against private addresses."""

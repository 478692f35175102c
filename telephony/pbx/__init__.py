"""The way to a PBX: the port in `port.py`, its backends beside it."""

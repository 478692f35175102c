"""Sockets and event loops for the wire protocols. Nothing here knows what a call is for."""

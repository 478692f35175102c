"""The HTTP face: resources, problems, keys, documents. It knows the services and nothing below them."""

from telephony.api.app import create_app

__all__ = ["create_app"]

"""A world for people: protocol, sessions, server and page."""

from .app import create_app, create_server, serve

__all__ = ["create_app", "create_server", "serve"]

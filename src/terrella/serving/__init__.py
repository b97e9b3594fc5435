"""A world for people: protocol, sessions, server and page."""

from .app import create_app, create_server, serve
from .client import Follower

__all__ = ["Follower", "create_app", "create_server", "serve"]

"""Relay's `relay.testing`: random parameters for a network."""

from ..testing import create_workload

__all__ = ["create_workload"]

"""Ports on the loopback interface that stay with those who ask for them."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
# Below what kernels give to outgoing connections: a client that calls again and again while its
# server is down can neither take the server's port nor end up connected to itself.
_RANGE = range(11_000, 22_000)
_NONE = f"no free port on {LOOPBACK} between {_RANGE.start} and {_RANGE.stop}"
_dice = random.SystemRandom()


def bound_socket() -> socket.socket:
    """A socket at a port of its own, about to listen."""
    for _ in range(200):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((LOOPBACK, _dice.choice(_RANGE)))
        except OSError:
            made.close()
        else:
            return made
    raise OSError(_NONE)


def free_port(*, and_above: int = 0) -> int:
    """A port nobody listens on, nor on the one that lies `and_above` higher."""
    for _ in range(200):
        port = _dice.choice(_RANGE)
        if all(_is_free(each) for each in {port, port + and_above}):
            return port
    raise OSError(_NONE)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True

"""Free ports on loopback, where nobody from another machine is let in."""

import socket

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])

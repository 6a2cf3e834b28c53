from support.clock import clock
from support.tiny_network import net

__all__ = ["clock", "net"]

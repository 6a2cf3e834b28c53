from support.clock import clock

__all__ = ["clock"]

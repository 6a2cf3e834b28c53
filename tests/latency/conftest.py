from support.tiny_network import net

__all__ = ["net"]

"""The rivals: every other way to write a KV cache that ours is compared with."""

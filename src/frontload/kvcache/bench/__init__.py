"""Comparing KV codecs on one model: bytes against loss."""

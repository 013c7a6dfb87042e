"""Bytes of a store: shard files, codecs, compression."""

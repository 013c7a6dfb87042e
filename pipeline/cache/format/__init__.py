"""Byte formats of a store: shard files, codecs, bit packing, compression."""

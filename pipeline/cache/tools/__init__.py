"""Commands on a finished store: verify, inspect, repack, copy, upload, prune."""

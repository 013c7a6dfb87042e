"""Stage 1: planning records, running the teacher, writing shards."""

"""Stage 1: plans the records of a store, runs the teacher on them and writes the shards."""

"""What a run starts from: the records that have labels, their order, and given initial weights."""

"""The teacher's side of training: its fitted head, tensors appended to a store, the teacher run in the loop."""

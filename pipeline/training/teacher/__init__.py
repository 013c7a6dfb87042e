"""The teacher's side of training: fitted heads, appended tensors, the teacher in the loop."""

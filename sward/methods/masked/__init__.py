"""Methods that learn masks of the teacher first: MasKD and FreeKD."""

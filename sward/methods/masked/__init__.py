"""Methods that first learn masks of the teacher's map: MasKD and FreeKD."""

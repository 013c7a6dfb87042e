"""RADIO-style feature matching: regression of teacher features whose channels have equal variance (PHI-S)."""

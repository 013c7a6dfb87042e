"""Annotations that are no pictures: COCO and LabelMe JSON, converted to labels when they are read."""

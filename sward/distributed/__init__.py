"""Makes losses and layers of a batch split over several processes equal to those of the whole batch."""

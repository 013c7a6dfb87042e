"""File formats beside those of Pillow, and images of more than 8 bits a channel."""

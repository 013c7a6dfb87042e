"""The HTML report, the store page and figure files."""

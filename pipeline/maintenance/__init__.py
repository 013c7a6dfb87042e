"""Scripts that write files of the checkout: README tables, documentation pages, the pocket teacher, split lists."""

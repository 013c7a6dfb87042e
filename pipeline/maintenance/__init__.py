"""Scripts that write committed files: README tables, documentation pages, the pocket teacher, split lists."""

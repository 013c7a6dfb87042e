"""HTML pages of results and stores, and figure files for papers."""

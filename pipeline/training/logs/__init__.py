"""Where the curves and pictures of a run go while it trains."""

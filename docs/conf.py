"""Settings of the documentation site: `make docs` builds it, with warnings as errors."""

project = "SWARD"
copyright = "the SWARD authors, Apache-2.0"
extensions = ["myst_nb"]  # myst_nb: Markdown and notebooks
html_theme = "furo"
html_title = "SWARD"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_directory": "docs/"}
nb_execution_mode = "off"  # pages show the committed outputs; `make notebooks` and the tests run them

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # the anchors that GitHub gives, so that links work on both

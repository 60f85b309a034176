"""Sphinx's settings for the site: the executed notebooks as pages that ask nothing of the network."""

project = "Denoising defenses: reproduced, and attacked"
author = "the authors of this collection"
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_title = "Denoising defenses"
html_static_path = ["source/_static"]
html_css_files = ["style.css"]
html_js_files = [(file, {"defer": "defer"}) for file in ("explorers.js", "numbers.js")]
html_favicon = "favicon.svg"
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}

nb_execution_mode = "off"  # outputs are those that git keeps
nb_ipywidgets_js = {}  # nothing runs here: an explorer's pages were drawn before
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "pages.build.anchor"
mathjax_path = "mathjax/es5/tex-svg-full.js"
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure", "myst.header"]

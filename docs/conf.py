"""Sphinx configuration. `make docs` treats every warning as an error and needs no network."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sde-sgd"
author = "the authors of sde-sgd"
copyright = f"2026, {author}"
version = release = installed("sde-sgd")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "plain_docstrings",
    "public_names",
    "declared_facts",
    "claim_pages",
]
exclude_patterns = [
    "_build",
    "examples",
    "gallery/**/*.ipynb",
    "sg_execution_times.rst",
    "gallery/sg_execution_times.rst",
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the docstrings say what an argument is
python_maximum_signature_line_length = 100
add_module_names = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/examples/",
    "image_scrapers": ("matplotlib", "figure_scraper"),
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "write_computation_times": False,
}

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "sde-sgd"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["sde_sgd.css"]
_WIDE = "tutorial conventions landscapes schemes ensembles fokker_planck potential quasipotential low_temperature"
_WIDE += " linear_theory from_samples estimates currents limit_cycles jko real_networks training diffusion_matrix"
_WIDE += " theory numerics"
_WIDE += " experiments network_sde"
_WIDE += " local_prediction"
html_sidebars = {page: [] for page in _WIDE.split()}  # pages of one level have nothing to list there
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 9,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
}

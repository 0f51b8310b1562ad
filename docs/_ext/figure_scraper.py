"""Pictures of a gallery example: every figure or axes it holds by name; the package makes figures without pyplot."""


def _get_sg_image_scraper():
    return scrape


def scrape(block, block_vars, gallery_conf):
    """Save each figure once, in the order of its name's appearance, and return the RST that shows it."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from sphinx_gallery.scrapers import figure_rst

    from sde_sgd.figures import save_png

    paths = []
    for value in list(block_vars["example_globals"].values()):
        figure = value.figure if isinstance(value, Axes) else value
        if not isinstance(figure, Figure) or getattr(figure, "in_gallery", False) or hasattr(figure, "number"):
            continue  # pyplot's own figures have a number and are taken by the standard scraper
        figure.in_gallery = True
        paths.append(next(block_vars["image_path_iterator"]))
        save_png(figure, paths[-1])
    return figure_rst(paths, gallery_conf["src_dir"])

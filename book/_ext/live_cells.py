"""Put the derivations that run in a browser into the site, where `make live` has collected them.

Without it the pages are as they were: no button, no script, no byte more.
"""

import shutil
from pathlib import Path

LIVE = Path(__file__).resolve().parents[2] / "_build" / "live"


def load_on_chapters(app, pagename, templatename, context, doctree):
    """Ask for the script on chapters only."""
    if pagename.startswith("chapters/") and LIVE.is_dir():
        app.add_js_file("live.js", defer="defer")


def copy_live(app, exception):
    """Put Python, SymPy and the list of cells beside the pages."""
    if not exception and app.builder.format == "html" and LIVE.is_dir():
        shutil.copytree(LIVE, Path(app.outdir) / "_static" / "live", dirs_exist_ok=True)


def setup(app):
    """Listen for pages and for the end."""
    app.connect("html-page-context", load_on_chapters)
    app.connect("build-finished", copy_live)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

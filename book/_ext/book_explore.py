"""Bring the explorables to the pages that have one, and their files from beside the pages.

A chapter's cell (book/tools/chapters.py) holds the still picture with its public address, for
Colab.  Here the address becomes a relative one, so that a page needs no network, and the scripts
that move the picture are loaded.  A page without an explorable loads nothing.
"""

import re

MARK = re.compile(
    r'<div class="explore" data-explore="(\w+)" id="explore-\w+">.*?</div>', re.DOTALL
)
PICTURE = re.compile(r'src="[^"]*/_static/')
SAME_PAGE = re.compile(r'href="[^"#]*#')


def bring(app, pagename, templatename, context, doctree):
    """Load what the explorables of this page need."""
    body = context.get("body", "")
    names = MARK.findall(body)
    if not names:
        return
    static = context["pathto"]("_static/", 1)

    def at_home(match):
        block = PICTURE.sub(f'loading="lazy" src="{static}', match[0])
        return SAME_PAGE.sub('href="#', block)

    # Plain scripts and not modules: those a browser refuses to read from a folder.
    files = ["losses", "stage", *names]
    scripts = [f'<script defer src="{static}explore/{name}.js"></script>' for name in files]
    context["body"] = MARK.sub(at_home, body) + "\n".join(["", *scripts])
    sheet = f'<link rel="stylesheet" href="{static}explore/explore.css">'
    context["metatags"] = context.get("metatags", "") + sheet


def setup(app):
    """Connect the one event."""
    app.connect("html-page-context", bring, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""A browser and the built site, for the tests of what a reader meets.

They need `make book` first and a Chromium or Chrome: on the PATH, or named by the variable CHROME.
Without one they are skipped and say so; where BROWSER=required is set, as `make browser` does for
a public forge, they fail instead.
"""

import gzip
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
REQUIRED = os.environ.get("BROWSER") == "required"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# In a container the browser's own sandbox is not to be had; the rest keeps it from going out.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
# What a server such as GitHub Pages sends compressed.
TEXT = {".html", ".css", ".js", ".svg", ".json"}


def do_without(reason: str):
    """Skip, or fail where the tests are insisted on."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


class Quiet(SimpleHTTPRequestHandler):
    """A server that does not comment on every request."""

    def log_message(self, *words):
        pass


@pytest.fixture(scope="session")
def site():
    """The address of the built site."""
    if not (SITE / "index.html").exists():
        do_without("There is no built site to look at: run `make book` first.")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        do_without("The package playwright is not installed: run `make install`.")
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        do_without(
            "No Chromium or Chrome is on the PATH, so no page was looked at. Install one, or name "
            "it: CHROME=/path/to/chrome make browser"
        )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Visit:
    """One page in a browser window of its own, and what happened while it loaded."""

    def __init__(self, browser, site, **settings):
        self.site = site
        self.complaints, self.files = [], set()
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **settings}
        )
        self.context.route("**/*", self.allow)
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)  # a busy machine is no fault of the page
        self.page.on("console", self.listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", self.note)

    def allow(self, route):
        """Let nothing out of this machine."""
        if route.request.url.startswith((self.site, "data:", "blob:")):
            route.continue_()
        else:
            self.complaints.append(f"asked for {route.request.url}")
            route.abort()

    def listen(self, message):
        """Keep what the page reports as wrong."""
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def note(self, response):
        """Keep which files came."""
        path = unquote(urlsplit(response.url).path).lstrip("/")
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {path}")
        elif response.url.startswith(self.site):
            self.files.add(path)

    def open(self, name):
        """Load a page and wait until its formulas are drawn."""
        self.page.goto(f"{self.site}{name}", wait_until="load")
        self.page.evaluate("async () => { await window.MathJax?.startup?.promise }")
        return self.page

    def bytes(self) -> int:
        """What the files weigh that came, sent as a public server sends them."""
        sizes = []
        for name in self.files:
            path = SITE / name
            if path.is_file():
                content = path.read_bytes()
                sizes.append(len(gzip.compress(content)) if path.suffix in TEXT else len(content))
        return sum(sizes)


@pytest.fixture(scope="session")
def visits(browser, site):
    """Open windows that are closed at the end."""
    opened = []

    def visit(**settings):
        opened.append(Visit(browser, site, **settings))
        return opened[-1]

    yield visit
    for one in opened:
        one.context.close()

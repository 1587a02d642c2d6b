"""What the book's pages need beyond Jupyter Book: one address, maths offline, plain light HTML.

The repository's address, the version, the author and the year come from pyproject.toml and
CITATION.cff, so that a fork changes one line.  MathJax comes out of a wheel and is copied into
the site: pages render with no network.
"""

import re
import shutil
import zlib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from docutils.nodes import make_id
from PIL import Image
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
# The part of MathJax that TeX input and HTML output use: a tenth of the package.
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts")
# @repository@ and @version@ in a page of the book stand for what pyproject.toml says.
TOKEN = re.compile(r"@(repository|version)@")
SIGNATURE = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>')
SIGNATURE_LINE = re.compile(r"<dd>(.*?)</dd>")
SOURCE_EQUATION = re.compile(r"eq-(\d{3})-(\w+)")
PICTURE = re.compile(r'<img (?![^>]*\bloading=)(?=[^>]*src="([^"]+)")')
# The theme draws its icons twice: by a font, and by this script of one and a half megabytes.
ICON_SCRIPT = re.compile(r'\s*<script src="[^"]*/fontawesome/[^"]*\.js[^"]*"></script>')

# Names of other projects that our pages link to; their own inventories would need a network.
ELSEWHERE = {
    "python": (
        "https://docs.python.org/3/",
        [
            "ValueError exception library/exceptions.html#ValueError",
            "TypeError exception library/exceptions.html#TypeError",
            "collections.abc.Callable class library/collections.abc.html#collections.abc.Callable",
            "collections.abc.Sequence class library/collections.abc.html#collections.abc.Sequence",
            "functools.partial function library/functools.html#functools.partial",
        ],
    ),
    "jaxtyping": (
        "https://docs.kidger.site/jaxtyping/",
        [f"jaxtyping.{kind} class api/array/" for kind in ("Bool", "Float", "Int")],
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        [
            "torch.Tensor class tensors.html#torch.Tensor",
            "Tensor class tensors.html#torch.Tensor",  # as it stands in our signatures
            "torch.autograd.gradcheck function generated/torch.autograd.gradcheck.gradcheck.html",
            "torch.compile function generated/torch.compile.html",
            "torch.logsumexp function generated/torch.logsumexp.html",
            "torch.nn.CrossEntropyLoss class generated/torch.nn.CrossEntropyLoss.html",
            "torch.nn.Linear class generated/torch.nn.Linear.html",
            "torch.nn.Module class generated/torch.nn.Module.html",
            "torch.nn.functional.cross_entropy function "
            "generated/torch.nn.functional.cross_entropy.html",
            "torch.nn.functional.multi_margin_loss function "
            "generated/torch.nn.functional.multi_margin_loss.html",
            "torch.nn.functional.triplet_margin_loss function "
            "generated/torch.nn.functional.triplet_margin_loss.html",
            "torch.nn.functional.softplus function generated/torch.nn.functional.softplus.html",
            "torch.distributed.device_mesh.DeviceMesh class "
            "distributed.html#torch.distributed.device_mesh.DeviceMesh",
            "torch.distributed.distributed_c10d.ProcessGroup class distributed.html",
        ],
    ),
}


def project() -> dict:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def released() -> str:
    """The year of the release, from CITATION.cff."""
    return re.search(r"^date-released: (\d{4})", (ROOT / "CITATION.cff").read_text(), re.M)[1]


def pages_address(repository: str) -> str:
    """Where GitHub serves the pages of a repository."""
    owner, name = repository.removesuffix("/").split("/")[-2:]
    return f"https://{owner}.github.io/{name}/"


def name_the_project(app, config):
    """Fill in what Jupyter Book would read from _config.yml."""
    about = project()
    repository = about["urls"]["Repository"]
    config.author = about["authors"][0]["name"]
    config.copyright = f"{released()}, {config.author}"
    config.version = config.release = about["version"]
    config.html_baseurl = pages_address(repository)
    config.html_theme_options["repository_url"] = repository
    config.html_theme_options["path_to_docs"] = ""


def write_inventories(app, config):
    """Write Sphinx inventories of the few outside names that we use."""
    folder = Path(app.doctreedir) / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (address, entries) in ELSEWHERE.items():
        lines = [entry.split() for entry in entries]
        body = "".join(f"{what} py:{kind} 1 {where} -\n" for what, kind, where in lines)
        head = (
            f"# Sphinx inventory version 2\n# Project: {name}\n# Version: 0\n"
            "# The remainder of this file is compressed using zlib.\n"
        )
        path = folder / f"{name}.inv"
        path.write_bytes(head.encode() + zlib.compress(body.encode()))
        config.intersphinx_mapping[name] = (address, str(path))


def fill_in_tokens(app, docname, source):
    """Write the address and the version where a page of the book asks for them."""
    if docname.startswith("book/"):
        about = project()
        known = {"repository": about["urls"]["Repository"], "version": about["version"]}
        source[0] = TOKEN.sub(lambda match: known[match[1]], source[0])


def number_equations(app, env):
    """Let an equation of a source keep the number that it has there.

    The label ``eq-002-11`` is equation (11) of source 002 and is shown as (002.11), on its own
    line and wherever a page refers to it.  Our own equations are counted by chapter.
    """
    labels = {
        make_id(f"equation-{label}"): SOURCE_EQUATION.fullmatch(label)
        for label in env.get_domain("math").equations
    }
    for kinds in env.toc_fignumbers.values():
        equations, own = kinds.get("displaymath", {}), 0
        for name, number in equations.items():
            source = labels.get(name)
            own += not source
            equations[name] = (source[1], source[2]) if source else (*number[:-1], own)


def copy_mathjax(app, exception):
    """Put the needed part of MathJax beside the pages."""
    if exception or app.builder.format != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    folder = Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX:
        if (source / part).is_dir():
            shutil.copytree(source / part, folder / part, dirs_exist_ok=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / part, folder / part)


def lighten(app, exception):
    """Let pages come quickly: no second set of icons, and figures when they are scrolled to.

    A picture's size stands in the page, so that nothing jumps when it arrives.
    """
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    for path in folder.rglob("*.html"):

        def measured(match, page=path):
            source = page.parent / unquote(match[1])
            if source.suffix != ".png" or not source.exists():
                return match[0]
            width, height = Image.open(source).size
            size = f'width="{width}" height="{height}"'
            return f'<img loading="lazy" decoding="async" {size} '

        text = path.read_text(encoding="utf-8")
        path.write_text(PICTURE.sub(measured, ICON_SCRIPT.sub("", text)), encoding="utf-8")
    for icons in (folder / "_static" / "vendor" / "fontawesome").glob("*/js"):
        shutil.rmtree(icons)
    for path in (folder / "_static").rglob("*.map"):
        path.unlink()


def load_scripts_once(app, pagename, templatename, context, doctree):
    """Drop repeated scripts; sphinx-thebe adds its own twice, which is an error in a browser."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        key = (script.filename or "", tuple(sorted(script.attributes.items())))
        if key not in seen:
            seen.add(key)
            kept.append(script)
    context["script_files"][:] = kept


def mend_body(app, pagename, templatename, context, doctree):
    """Mend three things that a reader who listens to the page would stumble over."""
    body = context.get("body", "")
    # The role of bibliography entries is withdrawn from ARIA; their list asks for this one.
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    # The empty corner of a table is a cell and heads nothing.
    body = re.sub(r'<th class="head">(?:<p></p>)?</th>', '<td class="head"></td>', body)
    # A long signature comes as a list of definitions without terms.
    context["body"] = SIGNATURE.sub(
        lambda match: SIGNATURE_LINE.sub(r'<span class="sig-line">\1</span>', match[1]), body
    )


@dataclass
class RoundBrackets(AuthorYearReferenceStyle):
    """Citations as in the text: Kobayashi (2019)."""

    bracket_parenthetical: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
    bracket_textual: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))


def setup(app):
    """Connect the mendings."""
    register_plugin("sphinxcontrib.bibtex.style.referencing", "author_year_round", RoundBrackets)
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    # Before the theme and intersphinx read their options.
    app.connect("config-inited", name_the_project, priority=100)
    app.connect("config-inited", write_inventories, priority=100)
    app.connect("source-read", fill_in_tokens)
    app.connect("env-check-consistency", number_equations)  # the first event after numbering
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", lighten)
    app.connect("html-page-context", load_scripts_once, priority=900)
    app.connect("html-page-context", mend_body, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

// Small mendings of the theme's HTML, for readers with a small screen, a keyboard or a screen
// reader. The pages are whole without them.

// Their aria-label hides the words that stand on the control itself.
function uncoverWords() {
  const hiding = "summary[aria-label], button.search-button-field[aria-label]";
  document.querySelectorAll(hiding).forEach((e) => e.removeAttribute("aria-label"));
}

function nameSidebar() {
  const side = document.querySelector(".bd-sidebar-primary");
  if (!side || side.hasAttribute("role")) return;
  side.setAttribute("role", "complementary");
  side.setAttribute("aria-label", "Book navigation");
}

// A figure drawn wide, such as one of several panels, scrolls on a phone: shrunk to the screen, its
// labels could not be read.
function findWideFigures() {
  document.querySelectorAll(".bd-article figure img").forEach((e) => {
    const width = e.naturalWidth || Number(e.getAttribute("width")); // it may not have come yet
    e.closest("figure").classList.toggle("wide", width > 700);
  });
}

// What scrolls sideways must be reachable without a mouse.
function letKeysScroll() {
  const may =
    "div.highlight pre, .cell_output pre, mjx-container, span.math, .bd-article table, figure.wide";
  document.querySelectorAll(may).forEach((e) => {
    if (e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0) e.tabIndex = 0;
  });
}

// The search page quotes the first words of a page: those of its prose, not of the
// buttons above it or of its code.
function quoteTheProse() {
  if (typeof Search === "undefined") return;
  const read = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const main = page.querySelector('[role="main"]');
    const article = page.querySelector("article.bd-article");
    page.querySelectorAll("div.cell").forEach((e) => e.remove());
    if (main && article) main.replaceChildren(article);
    return read(page.documentElement.outerHTML, anchor);
  };
}

document.addEventListener("DOMContentLoaded", quoteTheProse);
window.addEventListener("load", async () => {
  uncoverWords();
  nameSidebar();
  await window.MathJax?.startup?.promise;
  findWideFigures();
  letKeysScroll();
  window.addEventListener("resize", letKeysScroll);
});

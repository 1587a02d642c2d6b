// Small mendings of the theme's HTML, for readers who listen to a page or walk it by keyboard.
window.addEventListener("load", () => {
  // Their aria-label hides the words that stand on the control itself.
  const hiding = "summary[aria-label], button.search-button-field[aria-label]";
  document.querySelectorAll(hiding).forEach((e) => e.removeAttribute("aria-label"));

  const side = document.querySelector(".bd-sidebar-primary");
  if (side && !side.hasAttribute("role")) {
    side.setAttribute("role", "complementary");
    side.setAttribute("aria-label", "Book navigation");
  }
  // What scrolls sideways must be reachable without a mouse.
  const wide = "div.highlight pre, .cell_output pre, .math.notranslate.nohighlight, .bd-article table";
  document.querySelectorAll(wide).forEach((e) => {
    if (e.scrollWidth > e.clientWidth + 1 && !e.hasAttribute("tabindex")) e.tabIndex = 0;
  });
});

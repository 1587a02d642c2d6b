// What a word or a symbol means, where it stands. A link to the glossary says its definition when it
// is pointed at or reached by keyboard; a symbol says its meaning when it is pointed at. The same
// meanings stand in the table at the head of the chapter, for readers without a mouse.
(() => {
  const hint = document.createElement("div");
  hint.id = "hint";
  hint.setAttribute("role", "tooltip");
  hint.hidden = true;
  let owner = null, timer = 0;

  function hide() {
    clearTimeout(timer);
    owner?.removeAttribute("aria-describedby");
    owner?.classList.remove("hinted");
    owner = null;
    hint.hidden = true;
  }

  function show(element, content) {
    hide();
    owner = element;
    element.classList.add("hinted");
    hint.replaceChildren(...content);
    hint.hidden = false;
    if (element.matches("a")) element.setAttribute("aria-describedby", "hint");
    const place = element.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - hint.offsetWidth - 8);
    hint.style.left = `${Math.max(8, left) + scrollX}px`;
    const above = place.bottom + hint.offsetHeight + 12 > innerHeight;
    hint.style.top = `${(above ? place.top - hint.offsetHeight - 6 : place.bottom + 6) + scrollY}px`;
  }

  // Leaving is forgiven for a moment, so that the pointer can reach the hint and stay on it.
  const later = (action, wait) => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };

  function terms() {
    document.querySelectorAll("a.reference[title]:has(> .std-term)").forEach((link) => {
      const says = link.title;
      link.removeAttribute("title");
      const open = () => show(link, [says]);
      link.addEventListener("mouseenter", () => later(open, 200));
      link.addEventListener("mouseleave", () => later(hide, 250));
      link.addEventListener("focus", open);
      link.addEventListener("blur", hide);
    });
  }

  // A formula as text: MathJax's own characters, with the parts that stand above and below marked.
  const MARKS = { "MJX-MSUB": "_", "MJX-MSUP": "^", "MJX-MSUBSUP": "_^", "MJX-MOVER": "~" };
  function written(node) {
    if (node.tagName === "MJX-C") return node.classList[0] + ";";
    const inside = [...node.children].map(written).join("");
    const script = node.classList.contains("mjx-cal") ? "cal:" : "";
    return MARKS[node.tagName] ? `(${MARKS[node.tagName]}${inside})` : script + inside;
  }

  function symbols() {
    const known = new Map();
    document.querySelectorAll("table.symbols tr").forEach((row) => {
      const symbol = row.cells[0].querySelector("mjx-math");
      if (!symbol) return;
      const key = written(symbol);
      known.set(key, [...(known.get(key) ?? []), row.cells[1]]);
    });
    if (!known.size) return;
    // The largest part of the formula around the pointer that the table knows.
    const find = (element) => {
      let found = null;
      while (element && element.tagName !== "MJX-CONTAINER") {
        if (known.has(written(element))) found = element;
        element = element.parentElement;
      }
      return found;
    };
    document.addEventListener("mouseover", (event) => {
      if (!event.target.closest) return;
      if (event.target.closest("#hint")) return;
      const formula = event.target.closest("mjx-container");
      const symbol = formula && !formula.closest("table.symbols, a") && find(event.target);
      if (symbol && symbol === owner) return clearTimeout(timer);
      if (symbol) {
        const meanings = known.get(written(symbol));
        later(() => show(symbol, meanings.map((cell) => cell.firstElementChild.cloneNode(true))), 250);
      } else if (owner?.closest("mjx-container")) {
        later(hide, 250);
      } else if (!owner) {
        clearTimeout(timer);
      }
    });
  }

  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(hint);
    hint.addEventListener("mouseenter", () => clearTimeout(timer));
    hint.addEventListener("mouseleave", () => later(hide, 250));
    terms();
  });
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    symbols();
  });
})();

/* A derivation runs in the reader's browser.  Each cell that SymPy alone can run gets a button; the
   first press loads Python and SymPy from this site, once a page, into a thread of its own. */
(() => {
  const home = new URL("live/", document.currentScript.src);
  let worker, waiting = new Map(), count = 0;

  function ask(message) {
    if (!worker) {
      worker = new Worker(new URL("../live_worker.js", home), { type: "module" });
      worker.onmessage = ({ data }) => waiting.get(data.id)?.(data);
      worker.onerror = () => waiting.forEach((tell) => tell({ error: "Python could not be loaded." }));
    }
    const id = ++count;
    return new Promise((tell) => {
      waiting.set(id, tell);
      worker.postMessage({ id, home: home.href, ...message });
    }).finally(() => waiting.delete(id));
  }

  function show(output, { latex, text, error }) {
    output.className = error ? "live-output live-error" : "live-output";
    if (latex) {
      output.textContent = latex.replace(/^\$\\displaystyle /, "\\[").replace(/\$$/, "\\]");
      window.MathJax?.typesetPromise?.([output]);
    } else {
      output.replaceChildren(Object.assign(document.createElement("pre"), { textContent: error || text }));
    }
  }

  function offer(cell, { before, source }, archives) {
    const bar = document.createElement("p");
    bar.className = "live-bar";
    const edit = document.createElement("button"), run = document.createElement("button");
    const code = document.createElement("textarea"), output = document.createElement("div");
    edit.textContent = "Change and run here";
    run.textContent = "Run";
    run.hidden = code.hidden = true;
    code.value = source;
    code.rows = source.split("\n").length + 1;
    code.spellcheck = false;
    code.setAttribute("aria-label", "Code of this cell, to be changed and run in your browser");
    output.setAttribute("role", "status");
    edit.onclick = () => {
      code.hidden = !code.hidden;
      run.hidden = code.hidden;
      if (!code.hidden) code.focus();
    };
    run.onclick = async () => {
      run.disabled = true;
      show(output, { text: worker ? "Running." : "Loading Python and SymPy, about 13 MB, once for this page." });
      show(output, await ask({ archives, before, source: code.value }));
      run.disabled = false;
    };
    code.onkeydown = (event) => {
      if (event.key === "Enter" && event.shiftKey) {
        event.preventDefault();
        if (!run.disabled) run.click();
      }
    };
    bar.append(edit, run);
    cell.append(bar, code, output);
  }

  window.addEventListener("load", async () => {
    const page = location.pathname.split("/").pop().replace(/\.html$/, "");
    const cells = [...document.querySelectorAll("div.cell")];
    if (!cells.length) return;
    const listed = await (await fetch(new URL(`${page}.json`, home))).json();
    for (const one of listed.cells) {
      const cell = cells.find((c) => c.querySelector(".cell_input pre")?.textContent.trim() === one.source.trim());
      if (cell) offer(cell, one, listed.archives);
    }
  });
})();

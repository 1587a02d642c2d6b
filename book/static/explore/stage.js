// What the explorables share: elements, axes, handles, controls, numbers.
//
// An explorable takes the place of the still picture in every <div data-explore="its name">.  It
// says what it is made of; this file builds it, and draws it anew after every change.
"use strict";

const stage = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const SHAPES = new Set(["circle", "defs", "g", "line", "path", "pattern", "polygon", "rect", "svg", "text"]);
  const QUIET = 700; // ms without a change before the result is read out
  const TALL = 26; // px: a row of logits, and the height that a finger needs

  function make(name, attributes = {}, ...inside) {
    const node = SHAPES.has(name)
      ? document.createElementNS(SVG, name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  }

  // A real minus, and no minus before a zero.
  function format(value, digits = 2) {
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  }

  const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));
  // On a multiple of the step, and the number that a reader would write for it.
  const snap = (value, step) => Number((Math.round(value / step) * step).toFixed(6));

  // --- A drawing on two axes -------------------------------------------------------------------

  // As wide as its column, in CSS pixels: words keep their size on a phone.
  class Panel {
    constructor({ label, x, y, height, left = 46, right = 14, top = 12, bottom = 42, wide = false }) {
      Object.assign(this, { label, x, y, height, left, right, top, bottom });
      this.shapes = make("g", { "aria-hidden": "true" });
      this.handles = make("g");
      this.node = make("svg", { class: "explore-panel", role: "group", "aria-label": label });
      this.node.classList.toggle("explore-wide", wide);
      this.node.append(this.shapes, this.handles);
    }

    begin() {
      this.width = this.node.clientWidth || 560;
      this.tall = typeof this.height === "function" ? this.height(this.width) : this.height;
      this.node.setAttribute("viewBox", `0 0 ${this.width} ${this.tall}`);
      this.node.style.height = `${this.tall}px`;
      this.shapes.replaceChildren();
    }

    atX(value) {
      const [low, high] = this.x.range;
      return this.left + ((value - low) / (high - low)) * (this.width - this.left - this.right);
    }

    atY(value) {
      const [low, high] = this.y.range;
      return this.tall - this.bottom - ((value - low) / (high - low)) * (this.tall - this.top - this.bottom);
    }

    // The value at a place in pixels.
    from(px, py) {
      const [x0, x1] = this.x.range.map((value) => this.atX(value));
      const [y0, y1] = this.y.range.map((value) => this.atY(value));
      const [x, y] = [this.x.range, this.y.range];
      return [
        x[0] + ((px - x0) / (x1 - x0)) * (x[1] - x[0]),
        y[0] + ((py - y0) / (y1 - y0)) * (y[1] - y[0]),
      ];
    }

    add(name, attributes, ...inside) {
      const node = make(name, attributes, ...inside);
      this.shapes.append(node);
      return node;
    }

    frame() {
      const [bottom, left] = [this.tall - this.bottom, this.left];
      const ticks = (axis) => axis.ticks ?? [];
      for (const value of ticks(this.x)) {
        const x = this.atX(value);
        this.add("line", { class: "grid", x1: x, x2: x, y1: this.top, y2: bottom });
        this.words(x, bottom + 16, String(value).replace("-", "−"), "tick", "middle", { "data-tick": "x" });
      }
      for (const value of ticks(this.y)) {
        const y = this.atY(value);
        this.add("line", { class: "grid", x1: left, x2: this.width - this.right, y1: y, y2: y });
        this.words(left - 6, y + 4, String(value).replace("-", "−"), "tick", "end", { "data-tick": "y" });
      }
      if (this.x.name) this.words((left + this.width - this.right) / 2, this.tall - 6, this.x.name, "axis");
      if (this.y.name) {
        const middle = (this.top + bottom) / 2;
        this.words(12, middle, this.y.name, "axis", "middle", { transform: `rotate(-90 12 ${middle})` });
      }
    }

    words(x, y, text, kind = "", anchor = "middle", more = {}) {
      return this.add("text", { class: kind, x, y, "text-anchor": anchor, ...more }, text);
    }

    // From value to value.
    stroke(points, kind, more = {}) {
      const d = points.map(([x, y], k) => `${k ? "L" : "M"}${this.atX(x)} ${this.atY(y)}`).join("");
      return this.add("path", { class: kind, d, ...more });
    }

    // The graph of f, as far as it lies within the frame.
    curve(f, kind, more = {}, steps = 240) {
      const [low, high] = this.x.range;
      const points = Array.from({ length: steps + 1 }, (_, k) => {
        const x = low + ((high - low) * k) / steps;
        return [x, f(x)];
      });
      return this.stroke(points.filter(([, y]) => y <= this.y.range[1]), kind, more);
    }

    mark(x, y, shape, kind, size = 7) {
      return this.add("path", { class: kind, d: outline(shape, size), transform: `translate(${this.atX(x)} ${this.atY(y)})` });
    }
  }

  // A disc for the target, a diamond for a rival, a ring for a feature, a bar's tip.
  function outline(shape, size) {
    if (shape === "diamond") return `M0 ${-size * 1.2}L${size * 1.2} 0L0 ${size * 1.2}L${-size * 1.2} 0Z`;
    if (shape === "square") return `M${-size} ${-size}H${size}V${size}H${-size}Z`;
    if (shape === "tip") return `M${-size * 1.3} -3.5H${size * 1.3}V3.5H${-size * 1.3}Z`;
    if (shape === "cross") return `M${-size} 0H${size}M0 ${-size}V${size}`;
    return `M${-size} 0a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0Z`;
  }

  // --- What a reader moves ---------------------------------------------------------------------

  // A mark that can be dragged, or moved by the arrow keys.  `moves` is "x", "y" or "xy".
  function handle({ panel, label, shape = "disc", kind, moves, limits, step = 0.1, get, set, says }) {
    const node = make(
      "g",
      { class: `handle ${kind} moves-${moves}`, tabindex: 0, role: "slider", "aria-label": label },
      make("circle", { class: "reach", r: TALL / 2 }),
      make("path", { d: outline(shape, 7) }),
    );
    const first = moves === "y" ? 1 : 0; // the coordinate that aria-valuenow tells
    const upright = moves === "y" ? "vertical" : "horizontal";
    node.setAttribute("aria-orientation", upright);
    node.setAttribute("aria-valuemin", limits[first][0]);
    node.setAttribute("aria-valuemax", limits[first][1]);
    panel.handles.append(node);

    function move(x, y) {
      const [oldX, oldY] = get();
      set(
        moves.includes("x") ? clamp(snap(x, step), limits[0]) : oldX,
        moves.includes("y") ? clamp(snap(y, step), limits[1]) : oldY,
      );
      node.dispatchEvent(new CustomEvent("explore", { bubbles: true }));
    }

    // The finger moves the mark and not the page.  Chromium heeded no touch-action on these shapes.
    node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    let grip = null; // from the pointer to the middle of the mark
    const place = (event) => {
      const box = panel.node.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      node.focus({ preventScroll: true });
      node.setPointerCapture(event.pointerId);
      const [px, py] = place(event);
      const [x, y] = get();
      grip = [panel.atX(x) - px, panel.atY(y) - py];
    });
    node.addEventListener("pointermove", (event) => {
      if (!grip) return;
      const [px, py] = place(event);
      move(...panel.from(px + grip[0], py + grip[1]));
    });
    for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, () => (grip = null));

    node.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? 5 : 1;
      const ways = {
        ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
        PageUp: [0, 5], PageDown: [0, -5],
      };
      let [x, y] = get();
      if (event.key in ways) {
        const [right, up] = ways[event.key].map((way) => way * far * step);
        // On one axis every arrow means more or less of the same.
        if (moves === "xy") [x, y] = [x + right, y + up];
        else [x, y] = [x + right + up, y + right + up];
      } else if (event.key === "Home" || event.key === "End") {
        const end = event.key === "Home" ? 0 : 1;
        if (moves.includes("x")) x = limits[0][end];
        if (moves === "y") y = limits[1][end];
      } else {
        return;
      }
      event.preventDefault();
      move(x, y);
    });

    return {
      node,
      draw() {
        const [x, y] = get();
        node.setAttribute("transform", `translate(${panel.atX(x)} ${panel.atY(y)})`);
        Object.assign(node.dataset, { x, y });
        node.setAttribute("aria-valuenow", [x, y][first]);
        node.setAttribute("aria-valuetext", says ? says(x, y) : format([x, y][first], 1));
      },
    };
  }

  function slider({ label, limits, step, get, set, says = (value) => format(value) }) {
    const input = make("input", { type: "range" });
    const shown = make("span", { class: "explore-value", "aria-hidden": "true" });
    input.addEventListener("input", () => set(Number(input.value)));
    return {
      node: make("label", { class: "explore-slider" }, make("span", {}, label), input, shown),
      draw() {
        [input.min, input.max] = limits();
        input.step = step();
        input.value = get();
        input.setAttribute("aria-valuetext", says(get()));
        shown.textContent = says(get());
      },
    };
  }

  let groups = 0; // radio buttons of one group share a name, and no two groups do
  function choice({ label, options, get, set }) {
    const name = `explore-choice-${groups++}`;
    const inputs = options.map(([value]) => {
      const input = make("input", { type: "radio", name, value });
      input.addEventListener("input", () => set(value));
      return input;
    });
    const labels = options.map(([, words], k) => make("label", {}, inputs[k], words));
    return {
      node: make("fieldset", {}, make("legend", {}, label), ...labels),
      draw() {
        for (const [k, [value]] of options.entries()) inputs[k].checked = value === get();
      },
    };
  }

  function button({ label, act }) {
    const node = make("button", { type: "button" }, label);
    node.addEventListener("click", () => {
      act();
      node.dispatchEvent(new CustomEvent("explore", { bubbles: true }));
    });
    return { node, draw() {} };
  }

  // --- What a reader reads ---------------------------------------------------------------------

  // A number in words: rounded for the eye, whole for whoever asks the page.
  function number(name, digits = 2, unit = "") {
    const node = make("data", { "data-name": name });
    return {
      node: make("span", {}, node, /^$|^°/.test(unit) ? unit : ` ${unit}`),
      show(value) {
        node.value = value;
        node.textContent = Number.isNaN(value) ? "nowhere" : format(value, digits);
      },
    };
  }

  // --- The whole -------------------------------------------------------------------------------

  // `parts` has: question, panels, handles, controls, reset(), numbers (a list of [name, words,
  // unit, digits, kind] or a table), draw() -> the numbers' values, says(values) -> a sentence.
  function build(root, parts) {
    const shown = new Map();
    const cell = (name, digits, unit) => {
      shown.set(name, number(name, digits, unit));
      return shown.get(name).node;
    };
    const again = button({ label: "Start again", act: parts.reset });
    const controls = [...parts.controls, again];
    const voice = make("p", { class: "explore-voice", "aria-live": "polite" });
    const told = parts.table
      ? parts.table(make, cell)
      : make(
          "dl",
          { class: "explore-numbers simple" }, // so the theme does not indent it
          ...parts.numbers.map(([name, words, unit, digits, kind]) =>
            // Not a class: to the theme a div.margin is a margin note.
            make("div", { "data-kind": kind ?? "" }, make("dt", {}, words), make("dd", {}, cell(name, digits, unit))),
          ),
        );

    root.replaceChildren(
      make("p", { class: "explore-question" }, parts.question),
      make("div", { class: "explore-panels" }, ...parts.panels.map((panel) => panel.node)),
      make("div", { class: "explore-controls" }, ...controls.map((control) => control.node)),
      told,
      voice,
    );
    root.classList.add("explore-live");
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", parts.label);

    let timer;
    function draw() {
      for (const panel of parts.panels) panel.begin();
      const values = parts.draw();
      for (const thing of [...parts.handles, ...controls]) thing.draw();
      for (const [name, value] of Object.entries(values)) shown.get(name).show(value);
      return values;
    }
    function changed() {
      const values = draw();
      clearTimeout(timer);
      timer = setTimeout(() => (voice.textContent = parts.says(values)), QUIET);
    }
    root.addEventListener("explore", changed);
    root.addEventListener("input", changed);
    draw();
    let width = root.clientWidth;
    new ResizeObserver(() => {
      if (root.clientWidth !== width) {
        width = root.clientWidth;
        draw();
      }
    }).observe(root);
  }

  function explorable(name, parts) {
    for (const root of document.querySelectorAll(`[data-explore="${name}"]`)) build(root, parts());
  }

  // --- A row of logits, for chapters 1 and 4 ---------------------------------------------------

  // Rivals above, the target below them, then the margin and the bias as bars on the same axis.
  // `logits` has the target in place 0.
  function logitRows({ label, range, ticks, logits }) {
    const rivals = logits().length - 1;
    const rows = rivals + 3;
    const panel = new Panel({
      label,
      x: { range, ticks, name: "logit" },
      y: { range: [0, rows] }, // a row has height 1 and its middle at a half
      height: rows * TALL + 12 + 42,
      left: 66,
      wide: true,
    });
    const row = (k) => (k === 0 ? 2.5 : rows - k + 0.5);
    const name = (k) => (k === 0 ? "target" : `rival ${k}`);
    const handles = logits().map((_, k) =>
      handle({
        panel,
        label: `Logit of ${k === 0 ? "the target" : name(k)}`,
        shape: k === 0 ? "disc" : "diamond",
        kind: k === 0 ? "target" : "rival",
        moves: "x",
        limits: [range],
        get: () => [logits()[k], row(k)],
        set: (x) => (logits()[k] = x),
      }),
    );
    function draw() {
      const f = logits();
      const top = Math.max(...f.slice(1));
      const end = top + losses.implicit_bias(f, 0);
      panel.frame();
      f.forEach((_, k) => panel.words(panel.left - 8, panel.atY(row(k)) + 5, name(k), k ? "rival" : "target", "end"));
      panel.stroke([[top, rows], [top, 0]], "rival thin dotted");
      panel.stroke([[f[0], 3], [f[0], 1]], "target thin");
      panel.stroke([[end, rows], [end, 0]], "bias thin dashed");
      const bars = [["margin", f[0], 1.5, ""], ["bias", end, 0.5, " dashed"]];
      for (const [word, to, y, dash] of bars) {
        panel.words(panel.left - 8, panel.atY(y) + 5, word, word, "end");
        panel.stroke([[top, y], [to, y]], `${word} bar${dash}`, { "data-bar": word });
        panel.mark(to, y, word === "margin" ? "disc" : "square", `${word} dot`, 4);
      }
    }
    return { panel, handles, draw, row };
  }

  return { make, format, clamp, snap, Panel, outline, handle, slider, choice, button, explorable, logitRows };
})();

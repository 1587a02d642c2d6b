// Chapter 4: what label smoothing and the large-margin loss tell each logit, and where that leads.
"use strict";

stage.explorable("smoothing", () => {
  const STEP = 0.5;
  const STEPS = 40;
  const RANGE = [-3, 8];
  const START = () => ({ logits: [5.5, 1.5, 0, -1.5], loss: "softmax", smoothing: 0.1, strength: 0.3 });
  let state = START();

  const LOSSES = {
    softmax: {
      name: "softmax", kind: "ink", word: "",
      loss: (f) => losses.softmax_loss(f, 0),
      slope: (f) => losses.softmax_slope(f, 0),
    },
    label_smoothing: {
      name: "label smoothing", kind: "first dashed", word: "first",
      loss: (f) => losses.label_smoothing_loss(f, 0, state.smoothing),
      slope: (f) => losses.label_smoothing_slope(f, 0, state.smoothing),
    },
    large_margin: {
      name: "large margin", kind: "second dashdot", word: "second",
      loss: (f) => losses.large_margin_loss(f, 0, state.strength),
      slope: (f) => losses.large_margin_slope(f, 0, state.strength),
    },
  };

  const rows = stage.logitRows({
    label: "Logits of the target and of three rivals, and the push on each",
    range: RANGE,
    ticks: [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    logits: () => state.logits,
  });
  const graph = new stage.Panel({
    label: "The three losses, by the target's logit",
    x: { range: RANGE, ticks: [-2, 0, 2, 4, 6, 8], name: "the target's logit" },
    y: { range: [0, 4], ticks: [0, 1, 2, 3, 4], name: "loss, nats" },
    height: 230, wide: true,
  });

  function drawPushes() {
    const slopes = LOSSES[state.loss].slope(state.logits);
    slopes.forEach((slope, k) => {
      const y = rows.row(k) + 0.42; // above the mark, not hidden by it
      const [from, to] = [state.logits[k], state.logits[k] - 2 * slope];
      rows.panel.stroke([[from, y], [to, y]], "ink", { "data-push": k });
      const px = rows.panel.atX(to) - rows.panel.atX(from);
      if (Math.abs(px) < 5) return;
      const [x, level] = [rows.panel.atX(to), rows.panel.atY(y)];
      rows.panel.add("path", { class: "ink", d: `M${x - 5 * Math.sign(px)} ${level - 4}L${x} ${level}L${x - 5 * Math.sign(px)} ${level + 4}` });
    });
  }

  // The height of the target at which the push on it ends: p_y = 1 - kappa.
  function rest() {
    const kappa = (state.smoothing * (state.logits.length - 1)) / state.logits.length;
    return losses.logsumexp(state.logits.slice(1)) + Math.log((1 - kappa) / kappa);
  }

  function drawGraph() {
    graph.frame();
    const at = (loss) => (x) => loss([x, ...state.logits.slice(1)]);
    for (const [key, { loss, kind }] of Object.entries(LOSSES)) {
      graph.curve(at(loss), kind, { "data-curve": key });
      const value = loss(state.logits);
      if (value <= 4) graph.mark(state.logits[0], value, "disc", `${kind.split(" ")[0]} dot`, 4);
    }
    if (state.smoothing > 0 && rest() < RANGE[1]) {
      const lowest = at(LOSSES.label_smoothing.loss)(rest());
      graph.stroke([[rest(), 0], [rest(), lowest]], "first thin dotted", { "data-rest": "" });
      graph.words(graph.atX(rest()), graph.atY(lowest) - 14, "least", "first");
    }
    for (const [k, { name, word, kind }] of Object.values(LOSSES).entries()) {
      const [x, y] = [graph.width - graph.right - 142, graph.top + 12 + 20 * k];
      graph.add("path", { class: kind, d: `M${x} ${y - 4}h28` });
      graph.words(x + 35, y, name, word, "start");
    }
  }

  function downhill() {
    for (let step = 0; step < STEPS; step++) {
      const slopes = LOSSES[state.loss].slope(state.logits);
      state.logits = state.logits.map((f, k) => stage.clamp(f - STEP * slopes[k], RANGE));
    }
  }

  return {
    label: "Explorable: label smoothing, large margin and the bias",
    question:
      "Go downhill with each of the three losses, from the same start. Which one takes the target down again, and what becomes of the bias?",
    panels: [rows.panel, graph],
    handles: rows.handles,
    controls: [
      stage.choice({
        label: "Loss",
        options: Object.entries(LOSSES).map(([key, { name }]) => [key, name]),
        get: () => state.loss,
        set: (value) => (state.loss = value),
      }),
      stage.slider({
        label: "smoothing", limits: () => [0, 0.5], step: () => 0.05,
        get: () => state.smoothing, set: (value) => (state.smoothing = value),
      }),
      stage.slider({
        label: "large-margin strength", limits: () => [0, 1], step: () => 0.1,
        get: () => state.strength, set: (value) => (state.strength = value),
      }),
      stage.button({ label: `Go downhill, ${STEPS} steps`, act: downhill }),
    ],
    reset: () => (state = START()),
    table(make, cell) {
      const head = ["", "loss, nats", "push on the target", "push on the bias"];
      const columns = head.map((words) => make(words ? "th" : "td", words ? { scope: "col" } : {}, words));
      const body = Object.entries(LOSSES).map(([key, { name, word }]) =>
        make(
          "tr", {},
          make("th", { scope: "row", class: word }, name),
          ...["loss", "push", "rate"].map((what) => make("td", {}, cell(`${key}-${what}`, 3, ""))),
        ),
      );
      return make(
        "div", {},
        make("table", {}, make("thead", {}, make("tr", {}, ...columns)), make("tbody", {}, ...body)),
        make("p", { class: "explore-line" }, "margin ", cell("margin", 3, ""), ", bias ", cell("bias", 3, ""), ", probability of the target ", cell("probability", 3, "")),
      );
    },
    draw() {
      const f = state.logits;
      rows.draw();
      drawPushes();
      drawGraph();
      const values = {
        margin: losses.margin(f, 0),
        bias: losses.implicit_bias(f, 0),
        probability: losses.softmax(f)[0],
      };
      for (const [key, { loss, slope }] of Object.entries(LOSSES)) {
        values[`${key}-loss`] = loss(f);
        values[`${key}-push`] = -slope(f)[0];
        values[`${key}-rate`] = losses.bias_rate(f, 0, slope(f));
      }
      return values;
    },
    says: (values) =>
      `Margin ${stage.format(values.margin)}, bias ${stage.format(values.bias)}. Push on the target ${stage.format(values[`${state.loss}-push`])}.`,
  };
});

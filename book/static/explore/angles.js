// Chapter 5: what stands in the cosine's place, and the directions that each class then wins.
"use strict";

stage.explorable("angles", () => {
  const SCALE = 4; // of the cosine losses
  const RADIUS = 1.5; // of the picture, in the units of the vectors
  const SHORTEST = 0.2; // a vector of length zero has no direction
  const TURN = 2 * Math.PI;
  const degrees = (radians) => (radians * 180) / Math.PI;
  const at = (angle, length = 1) => [length * Math.cos(angle), length * Math.sin(angle)];

  // For each loss: its name, the range of its m, the logits without margin, the margin, and what
  // stands in the cosine's place.
  const LOSSES = {
    l_softmax: {
      name: "L-Softmax", limits: [1, 4], step: 0.25, start: 2, lowest: -7,
      logits: losses.linear_logits,
      margin: losses.l_softmax_margin,
      instead: (theta, m) => losses.falling(m * theta),
      formula: "ψ(θ)",
    },
    a_softmax: {
      name: "A-Softmax", limits: [1, 4], step: 0.25, start: 2, lowest: -7,
      logits: losses.a_softmax_logits,
      margin: losses.a_softmax_margin,
      instead: (theta, m) => losses.falling(m * theta),
      formula: "ψ(θ)",
    },
    cosface: {
      name: "CosFace", limits: [0, 1], step: 0.05, start: 0.35, lowest: -2,
      logits: (x, weight) => losses.cosine_logits(x, weight, SCALE),
      margin: (x, weight, target, m) => SCALE * m,
      instead: (theta, m) => Math.cos(theta) - m,
      formula: "cos θ − m",
    },
    arcface: {
      name: "ArcFace", limits: [0, 1.5], step: 0.05, start: 0.5, lowest: -3,
      logits: (x, weight) => losses.cosine_logits(x, weight, SCALE),
      margin: (x, weight, target, m) => losses.arcface_margin(x, weight, target, SCALE, m),
      instead: (theta, m) => losses.falling(theta + m),
      formula: "cos(θ + m)",
    },
  };

  const START = () => ({
    loss: "l_softmax",
    m: Object.fromEntries(Object.entries(LOSSES).map(([name, { start }]) => [name, start])),
    weight: [[1, 0], [0, 1], [-0.7, -0.7]],
    classes: 2,
    x: [0.9, 0.6],
  });
  let state = START();
  const loss = () => LOSSES[state.loss];
  const m = () => state.m[state.loss];
  const weight = () => state.weight.slice(0, state.classes);

  // How far class k stands above the others: without margin, or less its margin.
  function ahead(x, k, margin) {
    const f = loss().logits(x, weight());
    return losses.margin(f, k) - (margin ? loss().margin(x, weight(), k, m()) : 0);
  }
  // Vectors of one direction tie everywhere: then rounding must not choose a winner.
  const TIE = 1e-12;
  const wins = (angle) => ahead(at(angle), 0, false) > TIE;
  function owner(angle) {
    return weight().findIndex((_, k) => ahead(at(angle), k, true) > TIE);
  }

  // The circle cut where what(angle) changes: [from, to, value] for each part.
  function parts(what) {
    const steps = 720;
    const cuts = [];
    for (let k = 0; k < steps; k++) {
      let [low, high] = [(TURN * k) / steps, (TURN * (k + 1)) / steps];
      const before = what(low);
      if (what(high) === before) continue;
      for (let halving = 0; halving < 45; halving++) {
        const middle = (low + high) / 2;
        if (what(middle) === before) low = middle;
        else high = middle;
      }
      cuts.push((low + high) / 2);
    }
    if (!cuts.length) return [[0, TURN, what(0)]];
    return cuts.map((from, k) => {
      const to = cuts[k + 1] ?? cuts[0] + TURN;
      return [from, to, what((from + to) / 2)];
    });
  }
  // From w1, turning towards w2: how far its part of the circle reaches.
  function reach(found, value) {
    const [own, other] = state.weight.map(([x, y]) => Math.atan2(y, x));
    const away = (angle) => (((angle % TURN) + TURN) % TURN);
    const part = found.find(([from, to, what]) => what === value && away(own - from) < to - from);
    if (!part) return 0;
    const behind = away(own - part[0]);
    return away(other - own) <= Math.PI ? part[1] - part[0] - behind : behind;
  }

  const plane = new stage.Panel({
    label: "Class vectors and the directions they win",
    x: { range: [-1.6, 1.6] },
    y: { range: [-1.6, 1.6] },
    height: (width) => width,
    left: 4, right: 4, top: 4, bottom: 4,
  });
  const graph = new stage.Panel({
    label: "What stands in the cosine's place, by angle",
    x: { range: [0, 180], ticks: [0, 45, 90, 135, 180], name: "angle θ, degrees" },
    y: { range: [-7, 1], ticks: [], name: "in the cosine's place" },
    height: (width) => Math.min(width, 330),
  });

  function wedge([from, to], kind, more = {}) {
    const many = Math.max(2, Math.ceil((to - from) / 0.03));
    const arc = Array.from({ length: many + 1 }, (_, k) => at(from + ((to - from) * k) / many, RADIUS));
    return plane.stroke([[0, 0], ...arc, [0, 0]], `area ${kind}`, more);
  }

  function vector(label, shape, kind, get, put, shown = () => true) {
    const moved = stage.handle({
      panel: plane, label, shape, kind, moves: "xy", step: 0.05,
      limits: [[-1.5, 1.5], [-1.5, 1.5]],
      get,
      set(x, y) {
        const length = Math.hypot(x, y);
        if (length >= SHORTEST) put([x, y]);
        else if (length > 0) put([(x * SHORTEST) / length, (y * SHORTEST) / length]);
      },
      says: (x, y) => `${stage.format(x)} right, ${stage.format(y)} up`,
    });
    const draw = moved.draw;
    moved.draw = () => {
      moved.node.style.display = shown() ? "" : "none";
      draw();
    };
    return moved;
  }
  const SHAPES = ["disc", "diamond", "square"];
  const handles = state.weight.map((_, k) =>
    vector(
      k ? `Class vector of rival ${k}` : "Class vector of the target",
      SHAPES[k], k ? "rival" : "target",
      () => state.weight[k], (to) => (state.weight[k] = to), () => k < state.classes,
    ),
  );
  handles.push(vector("Feature x", "disc", "feature", () => state.x, (to) => (state.x = to)));

  const hatch = stage.make(
    "pattern",
    { id: "explore-hatch", width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    stage.make("path", { class: "margin", d: "M0 0V8" }),
  );

  function drawPlane(kept, plain) {
    plane.add("defs", {}, hatch);
    for (const part of kept) {
      const k = part[2];
      const told = { "data-from": part[0], "data-to": part[1], "data-owner": k };
      if (k < 0) wedge(part, "margin", { ...told, style: "fill: url(#explore-hatch); fill-opacity: 0.6" });
      else wedge(part, k ? "rival" : "target", told);
    }
    for (const [from] of plain.length > 1 ? plain : []) {
      plane.stroke([[0, 0], at(from, RADIUS)], "grey dashed", { "data-border": from });
    }
    weight().forEach((w, k) => {
      plane.stroke([[0, 0], w], k ? "rival" : "target");
      const [x, y] = w.map((v) => v * (1 + 0.24 / losses.length(w)));
      plane.words(plane.atX(x), plane.atY(y) + 5, `w${k + 1}`, k ? "rival" : "target");
    });
    plane.stroke([[0, 0], state.x], "ink thin dotted");
    const [x, y] = state.x.map((v) => v * (1 + 0.22 / losses.length(state.x)));
    plane.words(plane.atX(x), plane.atY(y) + 5, "x");
  }

  function drawGraph(theta) {
    graph.y.range = [loss().lowest, 1];
    graph.y.ticks = Array.from({ length: 2 - loss().lowest }, (_, k) => loss().lowest + k);
    graph.frame();
    const radians = (x) => (x * Math.PI) / 180;
    const plain = Math.cos(theta);
    const lowered = loss().instead(theta, m());
    graph.curve((x) => Math.cos(radians(x)), "grey dotted");
    graph.curve((x) => loss().instead(radians(x), m()), "target", { "data-curve": "instead" }, 180);
    graph.stroke([[degrees(theta), plain], [degrees(theta), lowered]], "margin bar", { "data-bar": "margin" });
    graph.mark(degrees(theta), plain, "disc", "ink dot", 4);
    graph.mark(degrees(theta), lowered, "disc", "target dot", 6);
    graph.words(graph.atX(176), graph.atY(Math.cos(Math.PI)) - 8, "cos θ", "muted", "end");
    const end = loss().instead(Math.PI, m());
    const below = end < loss().lowest + 0.8 ? -14 : 18;
    graph.words(graph.atX(172), graph.atY(end) + below, loss().formula, "target", "end");
  }

  return {
    label: "Explorable: angular margins and the directions that classes win",
    question:
      "Make the target's class vector w1 longer. Which of the four losses lets it move the border with w2?",
    panels: [plane, graph],
    handles,
    controls: [
      stage.choice({
        label: "Loss",
        options: Object.entries(LOSSES).map(([key, { name }]) => [key, name]),
        get: () => state.loss,
        set: (value) => (state.loss = value),
      }),
      stage.slider({
        label: "margin m",
        limits: () => loss().limits,
        step: () => loss().step,
        get: m,
        set: (value) => (state.m[state.loss] = value),
      }),
      stage.choice({
        label: "Class vectors",
        options: [["2", "two"], ["3", "three"]],
        get: () => String(state.classes),
        set: (value) => (state.classes = Number(value)),
      }),
    ],
    reset: () => (state = START()),
    numbers: [
      ["wins", "towards w2 the target wins up to", "° from w1", 1, "target"],
      ["kept", "and meets its demand up to", "° from w1", 1, "target"],
      ["theta", "angle θ of x from w1", "°", 1],
      ["margin", "margin Δ at x", "logits", 3, "margin"],
      ["loss", "loss at x", "nats", 3],
    ],
    draw() {
      const [[x, y], [u, v]] = [state.x, state.weight[0]];
      const theta = Math.abs(Math.atan2(x * v - y * u, x * u + y * v)); // digits at 0, as acos has not
      const kept = parts(owner);
      const plain = parts(wins);
      drawPlane(kept, plain);
      drawGraph(theta);
      const asked = loss().margin(state.x, weight(), 0, m());
      return {
        wins: degrees(reach(plain, true)),
        kept: degrees(reach(kept, 0)),
        theta: degrees(theta),
        margin: asked,
        loss: losses.soft_margin_loss(loss().logits(state.x, weight()), 0, asked),
      };
    },
    says: ({ wins, kept, loss }) =>
      `Towards w2 the target wins up to ${stage.format(wins, 0)} degrees and meets its demand up to ${stage.format(kept, 0)}. Loss at x ${stage.format(loss)} nats.`,
  };
});

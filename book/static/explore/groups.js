// Chapter 7: one image, two classes, eight features.  Cut them into groups, let each face the loss.
"use strict";

stage.explorable("groups", () => {
  const LIFTS = [3, 1, -1, 0, 0.5, 2, -0.5, -1]; // of the target above its rival, by feature
  const ONES = LIFTS.map(() => 1);
  const CLASSES = 2;
  const START = () => ({ lifts: [...LIFTS], groups: 2, sorted: false });
  let state = START();

  // The features are 1, so that the weights are what each of them adds.
  const weight = () => [state.lifts, state.lifts.map(() => 0)];
  const bias = [0, 0];
  function grouping() {
    const score = losses.discriminativity(ONES, weight(), bias, 0);
    const cut = state.sorted ? losses.discriminative_groups : losses.fixed_groups;
    return cut(score, state.groups);
  }
  // How hard features of these members are told to lift the target: 1 - p_y at scaled logits.
  function update(members, scale) {
    const f = losses.group_logits(ONES, weight(), bias, members);
    return 1 - losses.softmax(f.map((value) => scale * value))[0];
  }

  const places = { range: [0, LIFTS.length], ticks: [] };
  const bars = new stage.Panel({
    label: "What each feature adds to the target's lead",
    x: places,
    y: { range: [-3, 3], ticks: [-3, -2, -1, 0, 1, 2, 3], name: "lift, logits" },
    height: 218, bottom: 56, wide: true,
  });
  const updates = new stage.Panel({
    label: "How large an update each feature gets",
    x: places,
    y: { range: [0, 1], ticks: [0, 0.5, 1], name: "update" },
    height: 120, bottom: 16, wide: true,
  });
  const sums = new stage.Panel({
    label: "The three losses and their bounds",
    x: { range: [0, 8], ticks: [0, 2, 4, 6, 8], name: "loss, nats" },
    y: { range: [0, 4] },
    height: 170, left: 74, wide: true,
  });

  // The middle of a feature's column, wherever it has been put.
  let order = [...LIFTS.keys()];
  const column = (j) => order.indexOf(j) + 0.5;
  const handles = LIFTS.map((_, j) =>
    stage.handle({
      panel: bars,
      label: `Lift of feature ${j + 1}`,
      shape: "tip",
      kind: "bar-tip",
      moves: "y",
      limits: [[0, LIFTS.length], [-3, 3]],
      get: () => [column(j), state.lifts[j]],
      set: (_, y) => (state.lifts[j] = y),
    }),
  );

  function drawGroups(cut) {
    order = cut.flat();
    bars.frame();
    bars.stroke([[0, 0], [LIFTS.length, 0]], "grey thin");
    state.lifts.forEach((lift, j) => {
      const x = column(j);
      bars.stroke([[x, 0], [x, lift]], lift < 0 ? "rival bar dashed" : "target bar");
      bars.words(bars.atX(x), bars.tall - bars.bottom + 16, String(j + 1), "tick");
    });
    let start = 0;
    for (const [k, members] of cut.entries()) {
      const end = start + members.length;
      const [from, to] = [bars.atX(start) + 4, bars.atX(end) - 4];
      const y = bars.tall - bars.bottom + 24;
      bars.add("path", { class: "ink", d: `M${from} ${y}v6H${to}v-6` });
      const lead = losses.sum(members.map((j) => state.lifts[j]));
      const word = state.groups > 2 ? "" : `group ${k + 1}: `; // as far as there is room
      bars.words((from + to) / 2, y + 23, word + stage.format(lead, 1));
      start = end;
    }
  }

  function drawUpdates(cut) {
    updates.frame();
    const all = update([...LIFTS.keys()], 1);
    updates.stroke([[0, all], [LIFTS.length, all]], "ink", { "data-line": "softmax" });
    let start = 0;
    for (const [k, members] of cut.entries()) {
      const end = start + members.length;
      const one = update(members, cut.length);
      const two = update(members, 1);
      updates.stroke([[start, one], [end, one]], "first dashed", { "data-line": `type1-${k}` });
      updates.stroke([[start, two], [end, two]], "second dashdot", { "data-line": `type2-${k}` });
      start = end;
    }
  }

  function drawSums({ softmax, type1, type2, most }) {
    sums.x.range = [0, Math.max(4, 2 * Math.ceil(most / 2))];
    const step = sums.x.range[1] > 12 ? 4 : sums.x.range[1] > 6 ? 2 : 1;
    sums.x.ticks = Array.from({ length: Math.floor(sums.x.range[1] / step) + 1 }, (_, k) => k * step);
    sums.frame();
    const rows = [
      ["softmax", softmax, "ink", 3.5],
      ["type I", type1, "first dashed", 2.5],
      ["type II", type2, "second dashdot", 1.5],
      ["bound", most, "grey dotted", 0.5],
    ];
    for (const [name, value, kind, y] of rows) {
      sums.words(sums.left - 8, sums.atY(y) + 5, name, kind.split(" ")[0], "end");
      sums.stroke([[0, y], [value, y]], kind, { "data-bar": name });
      sums.mark(value, y, "disc", `${kind.split(" ")[0]} dot`, 5);
    }
  }

  return {
    label: "Explorable: group softmax losses",
    question:
      "Together the features lift the target by 4. Which cut into two groups costs more: neighbours as they stand, or sorted from weak to strong?",
    panels: [bars, updates, sums],
    handles,
    controls: [
      stage.choice({
        label: "Groups",
        options: ["1", "2", "4", "8"].map((count) => [count, count]),
        get: () => String(state.groups),
        set: (value) => (state.groups = Number(value)),
      }),
      stage.choice({
        label: "Order",
        options: [["fixed", "as they stand"], ["sorted", "sorted, weakest first"]],
        get: () => (state.sorted ? "sorted" : "fixed"),
        set: (value) => (state.sorted = value === "sorted"),
      }),
    ],
    reset: () => (state = START()),
    numbers: [
      ["softmax", "softmax loss ℓ", "nats", 3],
      ["type1", "type I", "nats", 3, "first"],
      ["type2", "type II", "nats", 3, "second"],
      ["most", "bound: type I + (G − 1) log 2", "nats", 3],
      ["weakest", "largest update, type I", "", 3, "first"],
      ["strongest", "smallest update, type I", "", 3, "first"],
    ],
    draw() {
      const cut = grouping();
      const type1 = losses.group_loss(ONES, weight(), bias, 0, cut, 1);
      const firsts = cut.map((members) => update(members, cut.length));
      const values = {
        softmax: losses.group_loss(ONES, weight(), bias, 0, [[...LIFTS.keys()]], 1),
        type1,
        type2: losses.group_loss(ONES, weight(), bias, 0, cut, 2),
        most: type1 + (cut.length - 1) * Math.log(CLASSES),
        weakest: Math.max(...firsts),
        strongest: Math.min(...firsts),
      };
      drawGroups(cut);
      drawUpdates(cut);
      drawSums(values);
      return values;
    },
    says: ({ softmax, type1, type2 }) =>
      `Softmax ${stage.format(softmax)}, type I ${stage.format(type1)}, type II ${stage.format(type2)} nats.`,
  };
});

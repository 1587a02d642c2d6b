// Chapter 6: minus a distance as the logit, and the circle inside which the margin is met.
"use strict";

stage.explorable("mixture", () => {
  const START = () => ({ means: [[0, 0], [2, 0]], x: [-5, 2.5], alpha: 0, m: 0 });
  const FAMILY = [0.25, 0.5, 1, 2]; // alphas of the faint circles
  const ARROW = 0.4; // of the pull: its arrow stays in the picture
  const NEAREST = 0.5; // two means in one place have no border
  let state = START();

  const gap = () => losses.length(state.means[1].map((v, j) => v - state.means[0][j]));
  // The unit vector from the own mean to the rival's.
  const way = () => state.means[1].map((v, j) => (v - state.means[0][j]) / gap());
  // The border by theorem: a circle round a centre behind the own mean.
  function circle(alpha) {
    const square = (gap() ** 2 * (1 + alpha)) / alpha ** 2 - (2 * state.m) / alpha;
    return {
      centre: state.means[0].map((v, j) => v - (way()[j] * gap()) / alpha),
      radius: square > 0 ? Math.sqrt(square) : 0,
    };
  }
  // How far from the own mean, towards the rival, the margin is still met; NaN if nowhere.
  function reach() {
    if (state.alpha === 0) return gap() / 2 - state.m / gap();
    const { radius } = circle(state.alpha);
    return radius > 0 ? radius - gap() / state.alpha : NaN;
  }

  const LOW = [-9, -4];
  const HIGH = [5, 4];
  const scale = (width) => width / (HIGH[0] - LOW[0]);
  const plane = new stage.Panel({
    label: "Two means, a feature, and the region where the margin is met",
    x: { range: [LOW[0], HIGH[0]] },
    y: { range: [LOW[1], HIGH[1]] },
    height: (width) => scale(width) * (HIGH[1] - LOW[1]),
    left: 0, right: 0, top: 0, bottom: 0, wide: true,
  });
  const profile = new stage.Panel({
    label: "The loss along the ray from the own mean through the feature",
    x: { range: [0, 12], ticks: [0, 2, 4, 6, 8, 10, 12], name: "distance from the own mean" },
    y: { range: [0, 20], ticks: [0, 5, 10, 15, 20], name: "loss, nats" },
    height: 210, wide: true,
  });

  function point(label, shape, kind, get, put) {
    return stage.handle({
      panel: plane, label, shape, kind, moves: "xy", step: 0.1,
      limits: [[-8.8, 4.8], [-3.8, 3.8]], get, set: (x, y) => put([x, y]),
      says: (x, y) => `${stage.format(x, 1)} right, ${stage.format(y, 1)} up`,
    });
  }
  function moveMean(k, to) {
    const other = state.means[1 - k];
    if (Math.hypot(to[0] - other[0], to[1] - other[1]) >= NEAREST) state.means[k] = to;
  }
  const handles = [
    point("Mean of the target", "disc", "target", () => state.means[0], (to) => moveMean(0, to)),
    point("Mean of the rival", "diamond", "rival", () => state.means[1], (to) => moveMean(1, to)),
    point("Feature x", "disc", "feature", () => state.x, (to) => (state.x = to)),
  ];

  function round({ centre, radius }, kind, more) {
    const points = Array.from({ length: 361 }, (_, k) => {
      const angle = (k * Math.PI) / 180;
      return [centre[0] + radius * Math.cos(angle), centre[1] + radius * Math.sin(angle)];
    });
    return plane.stroke(points, kind, more);
  }

  // The straight border of alpha = 0, and the half plane on the own mean's side.
  function straight(at, kind, more) {
    const [u, v] = way();
    const foot = [state.means[0][0] + at * u, state.means[0][1] + at * v];
    const far = 40;
    const ends = [-far, far].map((t) => [foot[0] - t * v, foot[1] + t * u]);
    const back = [...ends].reverse().map(([x, y]) => [x - far * u, y - far * v]);
    plane.stroke(kind.includes("area") ? [...ends, ...back] : ends, kind, more);
  }

  function drawPlane(pull) {
    straight(gap() / 2, "grey dotted");
    for (const alpha of FAMILY) round(circle(alpha), "grey thin faint");
    if (state.alpha === 0) {
      straight(reach(), "area margin");
      straight(reach(), "margin", { "data-border": "line" });
    } else if (circle(state.alpha).radius > 0) {
      round(circle(state.alpha), "area margin");
      round(circle(state.alpha), "margin", { "data-border": "circle" });
      plane.mark(...circle(state.alpha).centre, "cross", "margin", 6);
    }
    plane.stroke([state.x, state.means[0]], "grey thin dotted");
    const tip = state.x.map((v, j) => v + ARROW * pull[j]);
    plane.stroke([state.x, tip], "ink", { "data-pull": "" });
    const turn = Math.atan2(pull[1], pull[0]);
    if (losses.length(pull) > 0.3) {
      const barb = (side) => [tip[0] - 0.3 * Math.cos(turn + side), tip[1] - 0.3 * Math.sin(turn + side)];
      plane.stroke([barb(0.5), tip, barb(-0.5)], "ink");
    }
    // The rival's name above its mark: below, on a phone, two names would meet.
    const named = [
      ["own mean", "target", state.means[0], 27],
      ["rival", "rival", state.means[1], -15],
      ["x", "", state.x, 27],
    ];
    for (const [word, kind, [x, y], below] of named) plane.words(plane.atX(x), plane.atY(y) + below, word, kind);
  }

  function drawProfile(loss) {
    profile.frame();
    const far = losses.length(state.x.map((v, j) => v - state.means[0][j]));
    const out = far > 0 ? state.x.map((v, j) => (v - state.means[0][j]) / far) : way().map((v) => -v);
    const along = (t, alpha, m) =>
      losses.gaussian_mixture_loss(state.means[0].map((v, j) => v + t * out[j]), state.means, 0, alpha, m);
    profile.curve((t) => along(t, 0, 0), "grey dotted");
    profile.curve((t) => along(t, state.alpha, state.m), "ink", { "data-curve": "loss" });
    if (far <= 12 && loss <= 20) profile.mark(far, loss, "disc", "ink dot", 6);
    profile.words(profile.width - profile.right, profile.atY(0) - 8, "dotted: no margin", "muted", "end");
  }

  return {
    label: "Explorable: the Gaussian mixture loss and its margin",
    question:
      "The feature x lies far out, and nothing pulls it. Raise α. Does the arrow point to its own mean?",
    panels: [plane, profile],
    handles,
    controls: [
      stage.slider({
        label: "α", limits: () => [0, 2], step: () => 0.05,
        get: () => state.alpha, set: (value) => (state.alpha = value),
      }),
      stage.slider({
        label: "m", limits: () => [0, 4], step: () => 0.1,
        get: () => state.m, set: (value) => (state.m = value), says: (value) => stage.format(value, 1),
      }),
    ],
    reset: () => (state = START()),
    numbers: [
      ["own", "d of the target", "", 3, "target"],
      ["other", "d of the rival", "", 3, "rival"],
      ["asked", "margin m + α d", "logits", 3, "margin"],
      ["loss", "loss", "nats", 3],
      ["pull", `length of the pull (arrow: ${ARROW} of it)`, "", 3],
      ["reach", "towards the rival, the margin is met up to", "", 3, "margin"],
    ],
    draw() {
      const { means, x, alpha, m } = state;
      const pull = losses.gaussian_pull(x, means, 0, alpha, m);
      const f = losses.gaussian_logits(x, means);
      const loss = losses.gaussian_mixture_loss(x, means, 0, alpha, m);
      drawPlane(pull);
      drawProfile(loss);
      return {
        own: -f[0],
        other: -f[1],
        asked: losses.gaussian_margin(x, means, 0, alpha, m),
        loss,
        pull: losses.length(pull),
        reach: reach(),
      };
    },
    says: ({ asked, loss, pull }) =>
      `Margin asked ${stage.format(asked)}, loss ${stage.format(loss)} nats, pull ${stage.format(pull)}.`,
  };
});

// Chapter 1: a row of logits, its margin, its bias, and the softplus that makes a loss of them.
"use strict";

stage.explorable("logits", () => {
  const START = [2, 1, -1.5, -2, -2.5]; // the target first
  let logits = [...START];

  const rows = stage.logitRows({
    label: "Logits of the target and of four rivals",
    range: [-3, 3],
    ticks: [-3, -2, -1, 0, 1, 2, 3],
    logits: () => logits,
  });
  const ramp = new stage.Panel({
    label: "The loss is the softplus of xi",
    x: { range: [-6, 8], ticks: [-6, -4, -2, 0, 2, 4, 6, 8], name: "ξ = bias − margin, logits" },
    y: { range: [0, 8], ticks: [0, 2, 4, 6, 8], name: "loss, nats" },
    height: 230,
    wide: true,
  });

  return {
    label: "Explorable: from logits to margin, bias and loss",
    question:
      "The target stands 1 above its strongest rival. Leave these two where they are. Can you still double the loss?",
    panels: [rows.panel, ramp],
    handles: rows.handles,
    controls: [
      stage.button({
        label: "Let all rivals agree",
        act: () => logits.fill(Math.max(...logits.slice(1)), 1),
      }),
    ],
    reset: () => (logits = [...START]),
    numbers: [
      ["margin", "margin", "logits", 3, "margin"],
      ["bias", "bias", "logits", 3, "bias"],
      ["xi", "ξ = bias − margin", "logits", 3],
      ["loss", "loss = softplus(ξ)", "nats", 3],
      ["probability", "probability of the target", "", 3, "target"],
    ],
    draw() {
      const margin = losses.margin(logits, 0);
      const bias = losses.implicit_bias(logits, 0);
      const xi = bias - margin;
      const loss = losses.softmax_loss(logits, 0);
      rows.draw();
      ramp.frame();
      ramp.stroke([[-6, 0], [0, 0], [8, 8]], "grey dotted");
      ramp.curve(losses.softplus, "ink", { "data-curve": "softplus" });
      ramp.stroke([[xi, 0], [xi, loss], [-6, loss]], "grey thin dashed");
      ramp.mark(xi, loss, "disc", "ink dot", 6).setAttribute("data-dot", "loss");
      ramp.words(ramp.atX(4.4), ramp.atY(5.6), "softplus(ξ)", "", "end");
      ramp.words(ramp.atX(1.7), ramp.atY(0.5), "max(0, ξ)", "muted", "start");
      return { margin, bias, xi, loss, probability: losses.softmax(logits)[0] };
    },
    says: ({ margin, bias, loss }) =>
      `Margin ${stage.format(margin)}, bias ${stage.format(bias)}, loss ${stage.format(loss)} nats.`,
  };
});

// The losses of the explorables, under their names in marginlib and for one example at a time.
// Logits, features and class vectors are arrays; `target` is the place of the right class.
// tests/browser/test_explorables.py holds every function to the library.
"use strict";

const losses = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const mean = (values) => sum(values) / values.length;
  const dot = (a, b) => sum(a.map((value, k) => value * b[k]));
  const length = (a) => Math.hypot(...a);
  const without = (values, k) => values.filter((_, place) => place !== k);

  // Measured from the largest, so that no exponential overflows.
  function logsumexp(values) {
    const top = Math.max(...values);
    return top + Math.log(sum(values.map((value) => Math.exp(value - top))));
  }

  function softmax(values) {
    const total = logsumexp(values);
    return values.map((value) => Math.exp(value - total));
  }

  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  // --- Chapters 1 and 3: target, rivals, margin, bias ----------------------------------------

  const split = (logits, target) => [logits[target], without(logits, target)];

  // Measured from the strongest rival: a shift common to all logits costs no digits.
  function log_odds(f_y, rivals) {
    const top = Math.max(...rivals);
    return logsumexp(rivals.map((f) => f - top)) + (top - f_y);
  }

  function margin(logits, target) {
    const [f_y, rivals] = split(logits, target);
    return f_y - Math.max(...rivals);
  }

  function implicit_bias(logits, target) {
    const [, rivals] = split(logits, target);
    return log_odds(Math.max(...rivals), rivals);
  }

  function soft_margin_loss(logits, target, margin = 1) {
    return softplus(log_odds(...split(logits, target)) + margin);
  }

  function softmax_loss(logits, target) {
    return soft_margin_loss(logits, target, 0);
  }

  // --- Chapter 4: disagreement and label smoothing -------------------------------------------

  // Half the way from the rivals' plain mean to their mean under q = softmax(rivals).
  function disagreement(rivals) {
    return (dot(softmax(rivals), rivals) - mean(rivals)) / 2;
  }

  function large_margin_loss(logits, target, strength = 0.3) {
    return softmax_loss(logits, target) + strength * disagreement(split(logits, target)[1]);
  }

  function label_smoothing_loss(logits, target, smoothing = 0.1) {
    const [f_y, rivals] = split(logits, target);
    const price = (smoothing * rivals.length) / logits.length;
    return softmax_loss(logits, target) + price * (f_y - mean(rivals));
  }

  // The slopes by each logit.  The library leaves them to autograd.
  function softmax_slope(logits, target) {
    return softmax(logits).map((p, k) => p - (k === target));
  }

  function large_margin_slope(logits, target, strength = 0.3) {
    const rivals = split(logits, target)[1];
    const q = softmax(rivals);
    const loud = dot(q, rivals);
    const turn = q.map((share, k) => (share * (rivals[k] - loud + 1) - 1 / q.length) / 2);
    turn.splice(target, 0, 0);
    return softmax_slope(logits, target).map((slope, k) => slope + strength * turn[k]);
  }

  function label_smoothing_slope(logits, target, smoothing = 0.1) {
    const c = logits.length;
    const price = (smoothing * (c - 1)) / c;
    return softmax_slope(logits, target).map(
      (slope, k) => slope + (k === target ? price : -price / (c - 1)),
    );
  }

  // How fast the bias grows while the logits go down these slopes (chapter 4's proof).
  function bias_rate(logits, target, slopes) {
    const [, rivals] = split(logits, target);
    const [, down] = split(slopes, target);
    return down[rivals.indexOf(Math.max(...rivals))] - dot(softmax(rivals), down);
  }

  // --- Chapter 5: angles -----------------------------------------------------------------------

  function cosine(x, w) {
    return Math.max(-1, Math.min(1, dot(x, w) / length(x) / length(w)));
  }

  // 1 - the integral of |sin| up to t: the cosine, continued so that it falls for ever.
  function falling(t) {
    const k = Math.floor(t / Math.PI);
    return (k % 2 ? -1 : 1) * Math.cos(t) - 2 * k;
  }

  const psi = (cosine, margin) => falling(margin * Math.acos(cosine));

  function l_softmax_margin(x, weight, target, margin = 4) {
    return length(weight[target]) * a_softmax_margin(x, weight, target, margin);
  }

  function a_softmax_margin(x, weight, target, margin = 4) {
    const c = cosine(x, weight[target]);
    return length(x) * (c - psi(c, margin));
  }

  function arcface_margin(x, weight, target, scale = 30, margin = 0.5) {
    const c = cosine(x, weight[target]);
    return scale * (c - falling(Math.acos(c) + margin));
  }

  const linear_logits = (x, weight) => weight.map((w) => dot(w, x));
  const a_softmax_logits = (x, weight) => weight.map((w) => length(x) * cosine(x, w));
  const cosine_logits = (x, weight, scale = 1) => weight.map((w) => scale * cosine(x, w));

  // --- Chapter 6: distances, with unit variances and equal priors ------------------------------

  const half_square = (x, mean) => dot(x.map((v, j) => v - mean[j]), x.map((v, j) => v - mean[j])) / 2;

  const gaussian_logits = (x, means) => means.map((mean) => -half_square(x, mean));

  function gaussian_margin(x, means, target, alpha = 0, margin = 0) {
    return margin + alpha * half_square(x, means[target]);
  }

  function gaussian_mixture_loss(x, means, target, alpha = 0, margin = 0) {
    const asked = gaussian_margin(x, means, target, alpha, margin);
    return soft_margin_loss(gaussian_logits(x, means), target, asked);
  }

  // Minus the slope of that loss by the feature: where it is pulled.
  function gaussian_pull(x, means, target, alpha = 0, margin = 0) {
    const f = gaussian_logits(x, means);
    f[target] -= gaussian_margin(x, means, target, alpha, margin);
    const p = softmax(f);
    return x.map((v, j) => {
      const expected = sum(means.map((mean, k) => p[k] * mean[j]));
      const own = means[target][j];
      return alpha * (1 - p[target]) * (own - v) + own - expected;
    });
  }

  // --- Chapter 7: groups of features -----------------------------------------------------------

  function discriminativity(x, weight, bias, target) {
    return x.map((value, j) => {
      const parts = weight.map((w, k) => w[j] * value + bias[k] / x.length);
      return parts[target] - mean(without(parts, target));
    });
  }

  // Where numpy.array_split cuts: the first groups have one more if d is not divisible.
  function cut(order, groups) {
    const small = Math.floor(order.length / groups);
    const more = order.length % groups;
    const start = (k) => k * small + Math.min(k, more);
    return Array.from({ length: groups }, (_, k) => order.slice(start(k), start(k + 1)));
  }

  const fixed_groups = (score, groups) => cut([...score.keys()], groups);

  function discriminative_groups(score, groups) {
    return cut([...score.keys()].sort((a, b) => score[a] - score[b]), groups);
  }

  function group_logits(x, weight, bias, members) {
    return weight.map(
      (w, k) => sum(members.map((j) => w[j] * x[j])) + (bias[k] * members.length) / x.length,
    );
  }

  function group_loss(x, weight, bias, target, grouping, kind = 1) {
    const scale = kind === 1 ? grouping.length : 1;
    const each = grouping.map((members) => {
      const f = group_logits(x, weight, bias, members).map((value) => scale * value);
      return softmax_loss(f, target);
    });
    return sum(each) / scale;
  }

  return {
    sum, mean, dot, length, logsumexp, softmax, softplus,
    split, log_odds, margin, implicit_bias, soft_margin_loss, softmax_loss,
    disagreement, large_margin_loss, label_smoothing_loss,
    softmax_slope, large_margin_slope, label_smoothing_slope, bias_rate,
    cosine, falling, psi, l_softmax_margin, a_softmax_margin, arcface_margin,
    linear_logits, a_softmax_logits, cosine_logits,
    gaussian_logits, gaussian_margin, gaussian_mixture_loss, gaussian_pull,
    discriminativity, fixed_groups, discriminative_groups, group_logits, group_loss,
  };
})();

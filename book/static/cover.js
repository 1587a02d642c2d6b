// The moving picture on the cover: the rivals draw together, the bias grows, and for the same loss
// the target has to stand farther out. Positions are computed, not drawn: UNIT pixels are one logit.
// Without this script, or where less motion is asked for, the picture stands still.
(() => {
  const UNIT = 103;
  const STRONGEST = 202; // where the strongest rival stands, in the picture's own pixels
  const OTHERS = [44, 112, 152];
  const SECONDS = 9; // there and back

  const svg = document.querySelector(".moving svg.idea");
  if (!svg) return;
  const at = (name) => svg.querySelector("." + name);
  const lse = (places) =>
    STRONGEST + UNIT * Math.log(places.reduce((sum, x) => sum + Math.exp((x - STRONGEST) / UNIT), 0));
  // What is left between the crowd and the target in the still picture sets the loss that is kept.
  const beyond = Number(at("target").getAttribute("cx")) - lse([...OTHERS, STRONGEST]);
  const shift = (element, x) => element.setAttribute("x", x);

  function draw(gathered) {
    const others = OTHERS.map((x) => x + (STRONGEST - x) * gathered);
    const crowd = lse([...others, STRONGEST]);
    const target = crowd + beyond;
    const diamond = (x) => `M${x} 109l11 11l-11 11l-11-11z`;
    at("others").setAttribute("d", others.map(diamond).join(""));
    at("tie").setAttribute(
      "d", `M${STRONGEST} 120V50M${target} 120V50M${STRONGEST} 120V172M${crowd} 120V172`);
    at("margin").setAttribute("d", `M${STRONGEST} 62V48H${target}V62`);
    at("bias").setAttribute("d", `M${STRONGEST} 160V174H${crowd}V160`);
    at("target").setAttribute("cx", target);
    shift(at("says-margin"), (STRONGEST + target) / 2);
    svg.querySelectorAll(".says-bias").forEach((e) => shift(e, (STRONGEST + crowd) / 2));
    svg.querySelectorAll(".says-target").forEach((e) => shift(e, Math.min(target, 440)));
    svg.dataset.bias = ((crowd - STRONGEST) / UNIT).toFixed(4);
    svg.dataset.margin = ((target - STRONGEST) / UNIT).toFixed(4);
  }

  const button = document.createElement("button");
  button.type = "button";
  button.className = "play";
  svg.after(button);

  let moving = false, start = 0, spent = 0;
  function frame(now) {
    if (!moving) return;
    spent = (now - start) / 1000;
    draw(0.45 - 0.45 * Math.cos((2 * Math.PI * spent) / SECONDS));
    requestAnimationFrame(frame);
  }
  function set(on) {
    moving = on;
    button.textContent = on ? "Stop the picture" : "Move the picture";
    if (on) requestAnimationFrame((now) => { start = now - spent * 1000; frame(now); });
  }
  button.addEventListener("click", () => set(!moving));
  set(!matchMedia("(prefers-reduced-motion: reduce)").matches);
})();

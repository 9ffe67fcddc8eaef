// The moving parts of the page: the graph's view, what is known of a group, sorting. Everything else stands without it.
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const texts = unpacked(document.getElementById("texts").textContent); // a promise
const LETTERS = report.targets.map((_, k) => (k < 26 ? String.fromCharCode(65 + k) : `T${k + 1}`));

// Texts are compressed by zlib, in base 64. The promise fails in browsers from before 2023.
async function unpacked(text) {
  const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

// Elements: made of text only, never of markup, as names come from users.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}
function digits(value) {
  return value === 0 ? "0" : value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
function time(ms) {
  if (ms === null) return "-";
  if (ms >= 1000) return `${digits(ms / 1000)} s`;
  return ms >= 0.1 || ms === 0 ? `${digits(ms)} ms` : `${digits(ms * 1000)} µs`;
}
function bytes(count) {
  for (const unit of ["bytes", "KiB", "MiB"]) {
    if (count < 1024) return unit === "bytes" ? `${count} bytes` : `${digits(count)} ${unit}`;
    count /= 1024;
  }
  return `${digits(count)} GiB`;
}
function number(value) {
  return typeof value === "number" ? (value === 0 ? "0" : value.toExponential(2)) : value === null ? "-" : String(value);
}

// The view of the graph: a point (x, y) of the drawing at scale k is shown at k * (x, y) + (view.x, view.y).
const svg = document.getElementById("drawing");
const size = { width: Number(svg.dataset.width), height: Number(svg.dataset.height) };
const view = { x: 0, y: 0, k: 1 };
svg.removeAttribute("viewBox");

function show() {
  document.getElementById("view").setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
  for (const head of svg.querySelectorAll(".head")) {
    head.setAttribute("transform", `translate(${view.x + view.k * head.dataset.x} 4) scale(${Math.min(1, Math.max(view.k, 0.45))})`);
  }
}
function zoom(factor, x, y) {
  const k = Math.min(4, Math.max(0.02, view.k * factor));
  view.x = x - (x - view.x) * (k / view.k);
  view.y = y - (y - view.y) * (k / view.k);
  view.k = k;
  show();
}
function fit() {
  const { width, height } = svg.getBoundingClientRect();
  view.k = Math.min(1.2, (width - 24) / size.width, (height - 24) / size.height);
  view.x = (width - view.k * size.width) / 2;
  view.y = 12;
  show();
}
function begin() { // as wide as the stage, if letters are to be read then; the top of it
  const { width } = svg.getBoundingClientRect();
  view.k = Math.min(1.1, Math.max(0.5, (width - 24) / size.width));
  view.x = Math.max((width - view.k * size.width) / 2, 12);
  view.y = 0;
  show();
}
function centre(target, group) {
  const node = nodeOf(target, group);
  const place = node.transform.baseVal.consolidate().matrix;
  const { width, height } = svg.getBoundingClientRect();
  const [x, y] = [view.x + view.k * (place.e + 100), view.y + view.k * (place.f + 21)]; // the middle of the node
  const [wide, tall] = [100 * view.k, 21 * view.k];
  if (x > wide && x < width - wide && y > tall + 34 && y < height - tall) return;
  view.x += width / 2 - x;
  view.y += height / 2 - y;
  show();
}

svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = svg.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
const fingers = new Map(); // pointers that are down
let moved = false;
svg.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, event);
  moved = false;
});
window.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
  if (!moved && Math.hypot(dx, dy) < 4) return;
  moved = true;
  svg.classList.add("moving");
  if (fingers.size === 2) {
    const other = [...fingers.values()].find((f) => f.pointerId !== event.pointerId);
    const box = svg.getBoundingClientRect();
    const apart = (f) => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY);
    zoom(apart(event) / Math.max(apart(before), 1), other.clientX - box.left, other.clientY - box.top);
  } else {
    view.x += dx;
    view.y += dy;
    show();
  }
  fingers.set(event.pointerId, event);
});
for (const kind of ["pointerup", "pointercancel"]) {
  window.addEventListener(kind, (event) => {
    fingers.delete(event.pointerId);
    svg.classList.remove("moving");
  });
}
svg.addEventListener("dblclick", fit);
document.querySelector(".tools").addEventListener("click", (event) => {
  const { width, height } = svg.getBoundingClientRect();
  const how = event.target.dataset.zoom;
  if (how === "fit") fit();
  else if (how) zoom(how === "in" ? 1.3 : 1 / 1.3, width / 2, height / 2);
});

// Choosing a group
const panel = document.getElementById("panel");
let tab = "choice";

function nodeOf(target, group) {
  return svg.querySelector(`.node[data-target="${target}"][data-group="${group}"]`);
}
function choose(target, group, scroll = false) {
  const chosen = report.targets[target].groups[group];
  for (const old of document.querySelectorAll(".chosen, .beside, .near")) old.classList.remove("chosen", "beside", "near");
  for (const node of svg.querySelectorAll(`.node[data-region="${chosen.region}"]`)) node.classList.add("beside");
  nodeOf(target, group).classList.replace("beside", "chosen");
  for (const edge of svg.querySelectorAll(`.edge[data-target="${target}"]`)) {
    if (edge.dataset.ends.split(" ").includes(`group${group}`)) edge.classList.add("near");
  }
  document.querySelector(`#regions tr[data-region="${chosen.region}"]`).classList.add("chosen");
  for (const mark of document.querySelectorAll(`.mark[data-target="${target}"][data-group="${group}"]`)) mark.classList.add("chosen");
  tell(target, group);
  if (scroll) document.getElementById("graph").scrollIntoView();
  centre(target, group);
}

function tell(target, group) {
  const g = report.targets[target].groups[group];
  const tabs = [["choice", "Choice"], ["ir", "Relay IR"], ["loops", "Loop IR"], ["source", "Source"], ["error", "Error"]];
  const body = make("div", { id: "tab" });
  const bar = make("div", { class: "tabs", role: "tablist" });
  for (const [key, title] of tabs) {
    const pick = () => {
      tab = key;
      tell(target, group);
    };
    bar.append(make("button", { type: "button", role: "tab", "data-tab": key, "aria-selected": key === tab, onclick: pick }, title));
  }
  const short = g.ops.map((op) => op.replace(/^(nn|image)\./, "")).join(" + ") || "copy";
  panel.replaceChildren(
    make("h3", {}, `${LETTERS[target]}: ${short}`), make("p", { class: "name" }, g.name), facts(g), beside(target, group), bar, body);
  body.append(...{ choice: candidates, ir: relay, loops, source, error: errors }[tab](g));
}
function facts(g) {
  const whole = report.targets.flatMap((t) => t.groups.includes(g) ? t.groups : []).reduce((sum, o) => sum + (o.ms || 0), 0);
  const known = [["time", time(g.ms)], ["of all groups", g.ms === null ? "-" : `${(100 * g.ms / whole).toFixed(1)}%`], ["by", g.implementation]];
  if (g.scratch) known.push(["scratch", bytes(g.scratch)]);
  if (g.roof) {
    known.push(["of peak", `${(100 * g.roof.reached).toFixed(0)}% (${g.roof.bound})`]);
    if (g.roof.flops && g.ms) known.push(["GFLOP/s", (g.roof.flops / g.ms / 1e6).toFixed(1)]);
    if (g.ms) known.push(["GB/s", (g.roof.nbytes / g.ms / 1e6).toFixed(1)]);
  }
  if (g.error) known.push(["error / largest", number(g.error.scaled)]);
  return make("div", { class: "facts" }, ...known.map(([name, value]) => make("div", {}, name, make("b", {}, value))));
}
function beside(target, group) {
  const region = report.regions[report.targets[target].groups[group].region];
  const rows = report.targets.map((t, k) => {
    const cells = region.groups[k].map((n) => {
      const text = `${t.groups[n].implementation} ${time(t.groups[n].ms)}`;
      if (k === target && n === group) return make("div", {}, make("b", {}, text));
      return make("div", {}, make("button", { type: "button", class: "swap", onclick: () => choose(k, n) }, text));
    });
    const listed = cells.length ? cells : ["nothing like it"];
    return make("tr", {}, make("th", {}, LETTERS[k]), make("td", {}, ...listed), make("td", { class: "num" }, time(region.ms[k])));
  });
  return make("table", { class: "beside" }, make("tbody", {}, ...rows));
}
function candidates(g) {
  const rows = g.candidates.map((c) => make("tr", {},
    make("td", {}, c.name), make("td", { class: "num" }, String(c.priority)), make("td", { class: `status-${c.status}` }, c.reason)));
  const head = make("tr", {}, make("th", {}, "candidate"), make("th", { class: "num" }, "priority"), make("th", {}, "verdict"));
  return [make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))];
}
function text(place, instead) {
  if (place === null) return make("p", { class: "hint" }, instead);
  const box = make("pre");
  texts.then((all) => { box.textContent = all[place]; }, (error) => { box.textContent = `This browser cannot unpack texts: ${error}`; });
  return box;
}
function relay(g) {
  return [make("p", { class: "hint" }, `Gives ${g.result}.`), text(g.ir, "")];
}
function kernel(g) {
  const count = report.targets.flatMap((t) => t.groups).filter((o) => g.kernel && o.source === g.source).length;
  return count > 1 ? [make("p", { class: "hint" }, `This kernel, ${g.kernel}, is shared by ${count} groups.`)] : [];
}
function loops(g) {
  return [...kernel(g), text(g.loops, "A library runs this group: there is no loop IR.")];
}
function source(g) {
  return [...kernel(g), text(g.source, "A library runs this group: there is no source.")];
}
function errors(g) {
  const e = g.error;
  if (!e) return [make("p", { class: "hint" }, "Nothing is known of the error of this group.")];
  const rows = [["largest absolute", number(e.max_abs)], ["largest relative", number(e.max_rel)], ["over the largest element", number(e.scaled)],
    ["largest in ulp", e.max_ulp === null ? "-" : Number(e.max_ulp).toPrecision(3)], ["beyond the tolerance", `${e.beyond} of ${e.size}`],
    ["worst element", `${e.value} at [${e.worst.join(", ")}], reference ${e.reference}`]];
  const figure = make("div", { class: "histogram" });
  histogram(figure, e);
  return [make("p", { class: "hint" }, "Against float64, with what came in through the inputs. Elements by their error in ulp:"), figure,
    make("table", {}, make("tbody", {}, ...rows.map(([name, value]) => make("tr", {}, make("td", {}, name), make("td", {}, String(value))))))];
}

// Elements by error: 0, up to half a unit in the last place, 1, 2, 4, ...
function histogram(place, error) {
  const counts = error.histogram;
  const last = Math.max(6, counts.reduce((found, n, k) => (n ? k : found), 0));
  const [width, height, step] = [500, 120, 500 / (last + 1)];
  const most = Math.max(...counts, 1);
  const figure = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "elements by error", preserveAspectRatio: "none" });
  counts.slice(0, last + 1).forEach((n, k) => {
    const tall = n ? Math.max(1.5, (n / most) * (height - 34)) : 0;
    const bar = draw("rect", { x: k * step + 1, y: height - 18 - tall, width: step - 2, height: tall });
    const name = k === 0 ? "0" : k === counts.length - 1 ? "more" : k === 1 ? "½" : String(2 ** (k - 2));
    bar.append(draw("title", {}, `${n} elements (${((100 * n) / error.size).toFixed(2)}%) with an error up to ${name} ulp`));
    figure.append(bar, draw("text", { x: (k + 0.5) * step, y: height - 5, "text-anchor": "middle" }, name));
    if (n) figure.append(draw("text", { x: (k + 0.5) * step, y: height - 22 - tall, "text-anchor": "middle" }, n / error.size >= 0.01 ? `${Math.round((100 * n) / error.size)}%` : ""));
  });
  figure.append(draw("path", { d: `M0 ${height - 17.5}H${width}` }));
  place.append(figure);
}
for (const place of document.querySelectorAll(".histogram[data-output]")) {
  const { error } = report.targets[place.dataset.target].outputs[place.dataset.output];
  if (error) histogram(place, error);
}

for (const node of document.querySelectorAll(".node, .mark")) {
  const pick = () => choose(Number(node.dataset.target), Number(node.dataset.group), node.classList.contains("mark"));
  node.addEventListener("click", () => moved || pick());
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    pick();
  });
}

// The table of regions
const rows = [...document.querySelectorAll("#regions tbody tr")];
for (const row of rows) {
  const open = () => {
    const { groups } = report.regions[row.dataset.region];
    const target = groups.findIndex((own) => own.length);
    choose(target, groups[target][0], true);
  };
  row.addEventListener("click", open);
  row.addEventListener("keydown", (event) => event.key === "Enter" && open());
}
for (const head of document.querySelectorAll("#regions [data-sort]")) {
  head.addEventListener("click", () => {
    const upwards = head.getAttribute("aria-sort") === "descending" || (head.dataset.sort === "0" && !head.hasAttribute("aria-sort"));
    for (const other of document.querySelectorAll("#regions [data-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
    const value = (row) => Number(row.dataset.values.split(" ")[head.dataset.sort]);
    rows.sort((a, b) => (upwards ? value(a) - value(b) : value(b) - value(a)));
    document.querySelector("#regions tbody").append(...rows);
  });
}
document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});

begin();
window.addEventListener("resize", show);

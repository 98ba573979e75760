// The slice browser without reloading: keys, sliders, and the links that move inside one level and
// plane. What changes level or plane stays a link; server/view.py has the same rules.
"use strict";

const PREFETCHED = 2; // sections ahead of the one that is shown

const frame = document.getElementById("view");
const view = JSON.parse(frame.dataset.view);
const picture = document.getElementById("picture");
const place = document.getElementById("place");
const controls = document.getElementById("controls");
const axes = { xy: ["x", "y", "z"], xz: ["x", "z", "y"], yz: ["y", "z", "x"] }[view.plane];
const [across, down, cut] = axes;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function box(centre) {
  const found = {};
  for (const axis of axes) {
    const extent = view.extents[axis];
    const start = clamp(
      centre[axis] - Math.floor(extent / 2), view.start[axis], view.stop[axis] - extent);
    found[axis] = [start, start + extent];
  }
  return found;
}

function picturePath(centre) {
  const found = box(centre);
  const part = (axis) => (axis === cut ? `${found[axis][0]}` : found[axis].join(","));
  const time = view.times ? `${view.t}/` : "";
  const window_ = view.window ? `window/${view.window.join(",")}/` : "";
  return `${view.base}/${view.plane}/${view.level}/${["x", "y", "z"].map(part).join("/")}/${time}${window_}`;
}

function boxPath(service) {
  const found = box(view.centre);
  const time = view.times ? `${view.t},${view.t + 1}/` : "";
  return `${view.base}/${service}/${view.level}/${["x", "y", "z"].map((a) => found[a].join(",")).join("/")}/${time}`;
}

function placeText() {
  const found = box(view.centre);
  const range = (axis) => `${axis} ${found[axis][0]} to ${found[axis][1] - 1}`;
  const time = view.times ? `, t ${view.t}` : "";
  return `${view.plane} at ${cut} ${found[cut][0]}${time}: ${range(across)}, ${range(down)}, level ${view.level}`;
}

function withCentre(href, centre) {
  const url = new URL(href, location.href);
  for (const axis of axes) url.searchParams.set(axis, centre[axis]);
  if (view.times) url.searchParams.set("t", view.t);
  return url.search;
}

function moved(direction, steps) {
  const axis = { across, down, cut }[direction];
  const step = direction === "cut" ? 1 : Math.max(1, Math.floor(view.extents[axis] / 4));
  return {
    ...view.centre,
    [axis]: clamp(view.centre[axis] + steps * step, view.start[axis], view.stop[axis] - 1),
  };
}

// The section before stays until the next has come; of several that are asked for, the last counts.
let wanted = "";

async function showPicture() {
  const path = picturePath(view.centre);
  if (path === wanted) return;
  wanted = path;
  frame.setAttribute("aria-busy", "true");
  const next = new Image();
  next.src = path;
  try {
    await next.decode();
    if (path !== wanted) return;
    picture.src = path;
    picture.alt = place.textContent = placeText();
    prefetch();
  } catch {
    if (path !== wanted) return;
    wanted = "";
    place.textContent = `${placeText()} could not be loaded`;
  }
  frame.removeAttribute("aria-busy");
}

function prefetch() {
  for (let n = 1; n <= PREFETCHED; n += 1) new Image().src = picturePath(moved("cut", n));
}

function show() {
  showPicture();
  for (const [name, value] of [...axes.map((a) => [a, view.centre[a]]), ["t", view.t]]) {
    const input = controls.elements.namedItem(name);
    if (input) input.value = value;
    const output = document.getElementById(`${name}-value`);
    if (output) output.value = value;
  }
  for (const link of document.querySelectorAll("a[data-service]")) {
    const service = link.dataset.service;
    link.href = service === "picture" ? picturePath(view.centre) : boxPath(service);
  }
  for (const link of document.querySelectorAll("a[data-keep]")) {
    link.search = withCentre(link.href, view.centre);
  }
  for (const link of document.querySelectorAll("a[data-move]")) {
    const [direction, steps] = link.dataset.move.split(",");
    link.search = withCentre(link.href, moved(direction, Number(steps)));
  }
  history.replaceState(null, "", withCentre(location.href, view.centre));
}

function move(direction, steps) {
  view.centre = moved(direction, steps);
  show();
}

const KEYS = {
  ArrowLeft: () => move("across", -1),
  ArrowRight: () => move("across", 1),
  ArrowUp: () => move("down", -1),
  ArrowDown: () => move("down", 1),
  PageUp: () => move("cut", -1),
  PageDown: () => move("cut", 1),
  Home: () => move("cut", view.start[cut] - view.stop[cut]),
  End: () => move("cut", view.stop[cut] - view.start[cut]),
  "+": () => document.querySelector('a[data-zoom="finer"]')?.click(),
  "=": () => document.querySelector('a[data-zoom="finer"]')?.click(),
  "-": () => document.querySelector('a[data-zoom="coarser"]')?.click(),
};

// Keys are the browser's own in fields, outside of the browser (there they scroll the page), and
// together with Ctrl, Alt and Cmd.
document.querySelector(".browser").addEventListener("keydown", (event) => {
  const act = KEYS[event.key];
  if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target instanceof HTMLInputElement) return;
  event.preventDefault();
  act();
});

controls.addEventListener("input", ({ target }) => {
  const value = Math.round(target.valueAsNumber);
  if (Number.isNaN(value)) return; // a window, or a number that is not whole yet
  if (target.name === "t") view.t = clamp(value, view.times[0], view.times[1] - 1);
  else if (axes.includes(target.name)) {
    view.centre[target.name] = clamp(value, view.start[target.name], view.stop[target.name] - 1);
    // What is typed is only put right when the field is left.
    if (target.type === "number") return void showPicture();
  } else return;
  show();
});

controls.addEventListener("change", ({ target }) => {
  if (axes.includes(target.name)) show();
});

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-move]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const [direction, steps] = link.dataset.move.split(",");
  move(direction, Number(steps));
});

show();
frame.focus({ preventScroll: true });

// What the pack's views share: a canvas under a node's widgets, node lookup, the page's memory, text and colours.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

export const COLOURS = {
  paper: "#17191e",
  panel: "#1f2228",
  grid: "#363a44",
  ink: "#e4e6ea",
  faint: "#9298a4",
  good: "#4fd1b5",
  plain: "#e0a458",
  bad: "#f07178",
};

/** A context's font of `size` px. */
export const font = (size, weight = "") => `${weight} ${size}px Inter, Arial, sans-serif`.trim();

/** The whole graph in front, also while the page shows one of its subgraphs. */
export const root = () => app.rootGraph ?? app.graph;

/**
 * The node that the server calls `id`: "5", or "1:2:5" for node 5 in subgraph node 2 in subgraph node 1.
 * Undefined where this page has no such node.
 */
export function nodeOf(id) {
  let graph = root();
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node ?? undefined;
}

let foreign = false; // whether what runs is not the workflow in front; its nodes may have the same ids

api.addEventListener("execution_start", () => {
  foreign = false;
});

/** Call `action(node, event)` when a node of the workflow in front tells something; node is undefined if it is gone. */
export function listen(name, action) {
  api.addEventListener(name, ({ detail }) => {
    foreign = detail.workflow !== root().id;
    if (!foreign) action(nodeOf(detail.node), detail);
  });
}

/** Whether another workflow than the one in front runs, as far as its nodes have told. */
export const runsElsewhere = () => foreign;

/** Call `action(prompt id)` when a run ends before its time. */
export function onBreak(action) {
  for (const ending of ["execution_interrupted", "execution_error"]) {
    api.addEventListener(ending, ({ detail }) => action(detail.prompt_id));
  }
}

/** Add `action` to a node's callback, after what is there already. */
export function chain(node, name, action) {
  const before = node[name];
  node[name] = function (...args) {
    const result = before?.apply(this, args);
    action.apply(this, args);
    return result;
  };
}

/** Let the page notice what a hand changed without a widget of the page's own, so that it can be undone. */
export function noteChange() {
  app.canvas?.emitBeforeChange();
  app.canvas?.emitAfterChange();
}

const MEMORY = "stableanimator.views"; // of sessionStorage: [[name, value], ...], the latest last
const VIEWS = 24; // that are remembered

const memory = () => JSON.parse(sessionStorage.getItem(MEMORY) ?? "[]");
const nameOf = (node, view) => [node.graph?.rootGraph.id, node.graph?.id, node.id, view].join("/");

/**
 * Remember what a run gave a node's view until the page's tab is closed, over reloads and undo.
 *
 * It is no part of the workflow: a run is nothing to undo or to save, and no file gets anybody's face.
 */
export function remember(node, view, value) {
  const name = nameOf(node, view);
  const kept = [...memory().filter(([each]) => each !== name), [name, value]].slice(-VIEWS);
  try {
    sessionStorage.setItem(MEMORY, JSON.stringify(kept));
  } catch {
    sessionStorage.removeItem(MEMORY); // full, and the page needs it more
  }
}

/** What is remembered for a node's view; null if nothing is. */
export function remembered(node, view) {
  const name = nameOf(node, view);
  return memory().find(([each]) => each === name)?.[1] ?? null;
}

const MARGIN = 10; // px that the page leaves around an element in a node
const redraws = new WeakMap(); // of canvases

// Zooming the page changes its pixel ratio. A canvas out of sight is drawn again when it comes back.
window.addEventListener("resize", () => {
  for (const canvas of document.querySelectorAll("canvas")) redraws.get(canvas)?.();
});

/**
 * A canvas below a node's widgets, which is never saved: `paint(context, width, height)` draws it in CSS pixels.
 *
 * It is drawn at least twice as fine as the page, since graphs are zoomed into. Wheel and middle button move the
 * graph, as everywhere on it. Returns { canvas, widget, redraw }; redraw() paints at the next frame.
 */
export function addCanvas(node, name, height, paint) {
  const box = document.createElement("div");
  const canvas = document.createElement("canvas");
  box.style.cssText = `position: relative; width: 100%; height: 100%; min-height: ${height - 2 * MARGIN}px; overflow: hidden;`;
  canvas.style.cssText = "position: absolute; inset: 0; width: 100%; height: 100%; border-radius: 6px;";
  box.append(canvas);

  let frame = 0;
  const draw = () => {
    frame = 0;
    const [width, tall] = [box.clientWidth, box.clientHeight];
    if (!width || !tall) return;
    const ratio = Math.max(2, window.devicePixelRatio);
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(tall * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    paint(context, width, tall);
  };
  const redraw = () => {
    frame ||= requestAnimationFrame(draw);
  };

  const widget = node.addDOMWidget(name, "stableanimator.canvas", box, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (widget.hidden ? 0 : height),
  });
  widget.serialize = false;

  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
  const middle = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };
  for (const [kind, action] of Object.entries(middle)) {
    box.addEventListener(kind, (event) => {
      if (event.button === 1 || event.buttons & 4) app.canvas[action](event);
    });
  }
  redraws.set(canvas, redraw);
  const observer = new ResizeObserver(redraw); // goes when the canvas goes
  observer.observe(box);
  chain(node, "onRemoved", () => observer.disconnect());
  return { canvas, widget, redraw };
}

/** Write text, shortened with an ellipsis to at most `room` px. `align` is that of the canvas. */
export function write(context, text, x, y, { colour = COLOURS.ink, size = 11, weight, align = "left", room } = {}) {
  context.font = font(size, weight);
  context.fillStyle = colour;
  context.textAlign = align;
  let shown = text;
  while (room && shown.length > 1 && context.measureText(shown).width > room) {
    shown = `${shown.slice(0, -2).trimEnd()}…`;
  }
  context.fillText(shown, x, y);
}

/** A value in 0..1 as a colour, dark violet to light yellow: lighter is more, in greyscale and to every eye. */
export function heat(value) {
  const stops = [[48, 26, 76], [60, 79, 138], [38, 130, 142], [68, 184, 118], [244, 226, 70]];
  const place = Math.min(Math.max(value, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(place), stops.length - 2);
  const mixed = stops[index].map((low, i) => Math.round(low + (place - index) * (stops[index + 1][i] - low)));
  return `rgb(${mixed.join(", ")})`;
}

const pictures = new Map();

/** Whether a URL is one of ours: it holds a picture itself, or this server has it. Nothing else is ever asked for. */
const ours = (url) => url.startsWith("data:image/jpeg;base64,") || url.startsWith(api.apiURL("/view?"));

/** The picture of a URL: undefined until it is here, then `arrived` is called. The latest 64 are kept. */
export function picture(url, arrived) {
  if (!url || !ours(url)) return undefined;
  let image = pictures.get(url);
  if (!image) {
    image = new Image();
    image.src = url;
    pictures.set(url, image);
    if (pictures.size > 64) pictures.delete(pictures.keys().next().value);
  }
  if (image.complete && image.naturalWidth) return image;
  image.addEventListener("load", arrived, { once: true });
  return undefined;
}

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

/**
 * The node that the server calls `id`: "5", or "1:2:5" for node 5 in subgraph node 2 in subgraph node 1.
 * Undefined where this page has no such node.
 */
export function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node ?? undefined;
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

/** Listen to an event of the server for as long as the node exists; `heard` gets its data. */
export function listen(node, event, heard) {
  const listener = ({ detail }) => heard(detail);
  api.addEventListener(event, listener);
  chain(node, "onRemoved", () => api.removeEventListener(event, listener));
}

/** Let the page notice that a node's properties changed, so that undo, a reload and its drafts know them. */
export function noteChange() {
  app.canvas?.emitBeforeChange();
  app.canvas?.emitAfterChange();
}

/**
 * A canvas below a node's widgets, which is never saved: `paint(context, width, height)` draws it in CSS pixels.
 *
 * It is drawn at least twice as fine as the page, since graphs are zoomed into. Wheel and middle button move the
 * graph, as everywhere on it. Returns { canvas, widget, redraw }; redraw() paints at the next frame.
 */
export function addCanvas(node, name, height, paint) {
  const root = document.createElement("div");
  const canvas = document.createElement("canvas");
  root.style.cssText = `position: relative; width: 100%; height: 100%; min-height: ${height}px; overflow: hidden;`;
  canvas.style.cssText = "position: absolute; inset: 0; width: 100%; height: 100%; border-radius: 6px;";
  root.append(canvas);

  let frame = 0;
  const draw = () => {
    frame = 0;
    const [width, tall] = [root.clientWidth, root.clientHeight];
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

  const widget = node.addDOMWidget(name, "stableanimator.canvas", root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (widget.hidden ? 0 : height),
  });
  widget.serialize = false;

  root.addEventListener("wheel", (event) => {
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
  const middle = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };
  for (const [kind, action] of Object.entries(middle)) {
    root.addEventListener(kind, (event) => {
      if (event.button === 1 || event.buttons & 4) app.canvas[action](event);
    });
  }
  const observer = new ResizeObserver(redraw);
  observer.observe(root);
  window.addEventListener("resize", redraw); // the page's own zoom changes the pixel ratio
  chain(node, "onRemoved", () => {
    observer.disconnect();
    window.removeEventListener("resize", redraw);
    cancelAnimationFrame(frame);
  });
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

/** The picture of a URL: undefined until it is here, then `arrived` is called. The latest 64 are kept. */
export function picture(url, arrived) {
  if (!url) return undefined;
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

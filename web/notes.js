// What a node has to say, below its widgets, as text that can be read, scrolled and copied: its output's `text`, and
// while it runs what it tells in events (nodes/desk.py), an error that ends it among them. What a run said is there
// again after a reload.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { COLOURS, chain, listen, onBreak, remember, remembered, runsElsewhere } from "./common.js";
import { say } from "./texts.js";

const CHECK = "StableAnimatorPreflight"; // its first line is a verdict
const REPORTS = [CHECK, "StableAnimatorIdentityScore", "StableAnimatorHJBSweep"]; // there before the first run, too
const NOTES = ["LoadModel", "ExtractPoses", "AlignPoses", "DrawPoses", "EncodeFace", "Sample", "Decode"];
const EVENT = "stableanimator.text";
const NAME = "notes";
const TYPE = "stableanimator.notes";
const PICTURES = "$$canvas-image-preview"; // the page's own widget
const WIDTH = 420; // of a new node with a report
const LEAST = 54; // px, of the text and what is around it, as all heights
const [MOST_OF_NOTES, MOST_OF_REPORTS] = [190, 380];
const PAD = 8;
const STYLE = `position: absolute; inset: 0; box-sizing: border-box; overflow-y: auto; padding: ${PAD}px 10px;
  border-radius: 6px; background: ${COLOURS.paper}; color: ${COLOURS.ink}; font: 12px/1.45 Inter, Arial, sans-serif;
  user-select: text; overflow-wrap: anywhere; white-space: pre-wrap; cursor: text;`;
const PAGES = /(https?:\/\/[^\s,;]+)/; // splits a line: every other part is an address
const TABLE = "font-family: monospace; font-size: 11px; white-space: pre; overflow-x: auto;"; // of lines in columns
const FITS = { good: COLOURS.good, fair: COLOURS.plain, doubtful: COLOURS.bad }; // as Align Poses expects to have done

/** How a line is shown, by how it begins: its colour and the part of it that is set apart. */
export function looks(line, number, kind) {
  if (line.startsWith("PROBLEM:")) return { colour: COLOURS.bad, head: "PROBLEM:" };
  if (line.startsWith("note:")) return { colour: COLOURS.plain, head: "note:" };
  if (line.startsWith("    ") && (kind === CHECK || line.startsWith("    fix:"))) {
    return { colour: COLOURS.faint, head: "", indent: 14 };
  }
  const [fit, grade] = /^expected fit: (\w+)/.exec(line) ?? [];
  if (fit) return { colour: FITS[grade], head: fit };
  if (number === 0 && REPORTS.includes(kind)) {
    const verdict = line.startsWith("not ready") ? COLOURS.bad : COLOURS.good;
    return { colour: kind === CHECK ? verdict : COLOURS.ink, head: line };
  }
  return { colour: COLOURS.faint, head: /^[a-z ]{3,16}:/.exec(line)?.[0] ?? "" };
}

/** One line of a node's text as an element. */
function element(line, number, kind) {
  const { colour, head, indent = 0 } = looks(line, number, kind);
  const [paragraph, strong] = [document.createElement("div"), document.createElement("span")];
  const below = line.startsWith("    fix:") ? 6 : 2; // px, the end of a finding
  paragraph.style.cssText = `margin: 0 0 ${below}px ${indent}px; color: ${indent ? colour : COLOURS.ink};`;
  if (/\S {2,}\S/.test(line)) paragraph.style.cssText += TABLE;
  strong.style.cssText = `color: ${colour}; font-weight: 600;`;
  strong.textContent = head;
  const rest = indent ? line.trimStart() : line.slice(head.length);
  paragraph.append(strong, ...rest.split(PAGES).map((part, number) => (number % 2 ? link(part) : part)));
  return paragraph;
}

/** Let go of the pictures of an earlier run; the page itself leaves them where a run has none. */
function dropPictures(node) {
  node.imgs = undefined;
  const place = node.widgets.findIndex(({ name }) => name === PICTURES);
  if (place >= 0) node.widgets.splice(place, 1);
}

/** The address of a web page, to be clicked. */
function link(address) {
  const anchor = document.createElement("a");
  Object.assign(anchor, { href: address, target: "_blank", rel: "noopener noreferrer", textContent: address });
  anchor.style.color = "inherit";
  return anchor;
}

const shown = new WeakMap(); // node -> { tell(event), settle(), outdate(old) }
let live; // of the node that told something last

listen(EVENT, (node, { node: id, status, text, failed, prompt_id }) => {
  live = shown.get(node);
  if (!failed) live?.tell({ status, text });
  else {
    const output = { text: [text] }; // the page takes it for the run's, and lets go of the last one's
    api.dispatchCustomEvent("executed", { node: id, display_node: id, prompt_id, output });
  }
});
onBreak(() => live?.settle());

/** Show whether a node's notes are of a run before what its widgets say now. */
export const outdate = (node, old) => shown.get(node)?.outdate(old);

function addNotes(node, report) {
  const [root, scroller, body] = ["div", "div", "div"].map((name) => document.createElement(name));
  root.style.cssText = "position: relative; width: 100%; height: 100%;";
  scroller.style.cssText = STYLE;
  body.style.display = "flow-root"; // its height is that of its lines with their margins
  scroller.append(body);
  root.append(scroller);

  const most = report ? MOST_OF_REPORTS : MOST_OF_NOTES;
  let full = LEAST; // height of all of the text
  const widget = node.addDOMWidget(NAME, TYPE, root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (widget.hidden ? 0 : Math.min(full, most)),
    getMaxHeight: () => (widget.hidden ? 0 : full),
  });
  widget.serialize = false;
  const view = node.widgets.findIndex(({ type }) => type === "stableanimator.canvas");
  if (view >= 0) node.widgets.splice(view, 0, node.widgets.pop()); // above it, where it is seen

  let [own, grown] = [0, 0]; // the node's height before it had to grow, and after; a hand's height is left alone
  const grow = () => {
    if (node.size[1] !== grown) own = node.size[1];
    grown = Math.max(own, node.computeSize()[1]);
    node.setSize([node.size[0], grown]);
    node.setDirtyCanvas(true, true);
  };
  const measure = () => {
    const needed = Math.max(body.offsetHeight + 2 * (PAD + widget.margin), LEAST);
    if (!body.offsetHeight || needed === full) return; // out of sight, or as before
    full = needed;
    root.style.minHeight = `${Math.min(full, most) - 2 * widget.margin}px`; // for Vue nodes
    grow();
  };
  const observer = new ResizeObserver(measure);
  observer.observe(body);

  // A text that scrolls takes the wheel, as every text on the page does once it is clicked; else it moves the graph.
  root.addEventListener("wheel", (event) => {
    if (scroller.scrollHeight > scroller.clientHeight + 1) event.stopPropagation();
    else {
      event.preventDefault();
      app.canvas.processMouseWheel(event);
    }
  });
  for (const kind of ["pointerdown", "pointermove"]) root.addEventListener(kind, (event) => event.stopPropagation());

  const said = { status: null, text: "" };
  const show = (change) => {
    Object.assign(said, change);
    const lines = said.text ? said.text.split("\n") : [];
    const elements = lines.map((line, number) => element(line, number, node.comfyClass));
    if (said.status) {
      elements.unshift(element(said.status, 1, node.comfyClass));
      elements[0].style.color = COLOURS.good;
    }
    if (!elements.length && report) elements.push(element(say("reportEmpty"), 1, node.comfyClass));
    body.replaceChildren(...elements);
    const hidden = !elements.length;
    if (Boolean(widget.hidden) === hidden) return;
    widget.hidden = root.hidden = hidden; // the latter for Vue nodes
    grow();
  };
  shown.set(node, {
    tell: show,
    settle: () => show({ status: null }),
    outdate: (old) => {
      root.style.opacity = old ? 0.4 : 1;
      root.title = old ? say("outdated") : "";
    },
  });

  if (report) node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
  chain(node, "onExecuted", (output) => {
    if (!output?.text || runsElsewhere()) return;
    const text = [output.text].flat().join("\n");
    remember(node, NAME, text);
    show({ status: null, text });
    if (!output.images?.length) dropPictures(node);
  });
  chain(node, "onConfigure", () => show({ text: remembered(node, NAME) ?? "" }));
  chain(node, "onRemoved", () => observer.disconnect());
  show({});
}

app.registerExtension({
  name: "StableAnimator.Notes",
  nodeCreated(node) {
    const report = REPORTS.includes(node.comfyClass);
    if (report || NOTES.includes(node.comfyClass?.replace("StableAnimator", ""))) addNotes(node, report);
  },
});

// Reports below a node's widgets as text that can be read, scrolled and copied: what the server sends as the node's
// `text`, and what a reload shows again.

import { app } from "../../scripts/app.js";
import { COLOURS, chain, remember, remembered } from "./common.js";
import { say } from "./texts.js";

const CHECK = "StableAnimatorPreflight"; // its first line is a verdict
const NODES = [CHECK, "StableAnimatorIdentityScore", "StableAnimatorHJBSweep"];
const NAME = "report";
const WIDTH = 420; // of a new node
const [LEAST, MOST] = [64, 360]; // px, of the text
const STYLE = `position: absolute; inset: 0; box-sizing: border-box; overflow-y: auto; padding: 8px 10px;
  border-radius: 6px; background: ${COLOURS.paper}; color: ${COLOURS.ink}; font: 12px/1.45 Inter, Arial, sans-serif;
  user-select: text; overflow-wrap: anywhere; white-space: pre-wrap; cursor: text;`;
const TABLE = "font-family: monospace; font-size: 11px; white-space: pre; overflow-x: auto;"; // of lines in columns

/** How a report's line is shown, by how it begins: its colour and the part of it that is set apart. */
export function looks(line, number, kind) {
  if (line.startsWith("PROBLEM:")) return { colour: COLOURS.bad, head: "PROBLEM:" };
  if (line.startsWith("note:")) return { colour: COLOURS.plain, head: "note:" };
  if (line.startsWith("    fix:")) return { colour: COLOURS.faint, head: "", indent: 14 };
  if (number === 0) {
    const verdict = line.startsWith("not ready") ? COLOURS.bad : COLOURS.good;
    return { colour: kind === CHECK ? verdict : COLOURS.ink, head: line };
  }
  return { colour: COLOURS.faint, head: /^[a-z ]{3,16}:/.exec(line)?.[0] ?? "" };
}

/** One line of a node's report as an element. */
function element(line, number, kind) {
  const { colour, head, indent = 0 } = looks(line, number, kind);
  const [paragraph, strong] = [document.createElement("div"), document.createElement("span")];
  paragraph.style.cssText = `margin: 0 0 ${indent ? 6 : 2}px ${indent}px; color: ${indent ? colour : COLOURS.ink};`;
  if (/\S {2,}\S/.test(line)) paragraph.style.cssText += TABLE;
  strong.style.cssText = `color: ${colour}; font-weight: 600;`;
  strong.textContent = head;
  paragraph.append(strong, line.slice(head.length).replace(/^ {4}fix/, "fix"));
  return paragraph;
}

function addReport(node) {
  const root = document.createElement("div");
  const text = document.createElement("div");
  root.style.cssText = "position: relative; width: 100%; height: 100%; min-height: 64px;";
  text.style.cssText = STYLE;
  root.append(text);
  let height = LEAST;
  const widget = node.addDOMWidget(NAME, "stableanimator.report", root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
  });
  widget.serialize = false;

  // A text that scrolls takes the wheel, as every text on the page does once it is clicked; else it moves the graph.
  root.addEventListener("wheel", (event) => {
    if (text.scrollHeight > text.clientHeight + 1) event.stopPropagation();
    else {
      event.preventDefault();
      app.canvas.processMouseWheel(event);
    }
  });
  for (const kind of ["pointerdown", "pointermove"]) root.addEventListener(kind, (event) => event.stopPropagation());

  const show = (report) => {
    const lines = (report ?? say("reportEmpty")).split("\n");
    text.replaceChildren(...lines.map((line, number) => element(line, report ? number : 1, node.comfyClass)));
    requestAnimationFrame(() => {
      const needed = [...text.children].reduce((sum, line) => sum + line.offsetHeight + 4, 20);
      height = Math.min(Math.max(needed, LEAST), MOST);
      node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
      node.setDirtyCanvas(true, true);
    });
  };

  node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
  chain(node, "onExecuted", (output) => {
    if (!output?.text) return;
    const report = [output.text].flat().join("\n");
    remember(node, NAME, report);
    show(report);
  });
  chain(node, "onConfigure", () => show(remembered(node, NAME)));
  show(null);
}

app.registerExtension({
  name: "StableAnimator.Report",
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) addReport(node);
  },
});

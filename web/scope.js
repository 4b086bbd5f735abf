// The identity scope: how much every frame's face looks like the reference's, step by step, below Sample's widgets.
//
// The server tells it in events (nodes/desk.py): one "start", a "likeness" per measurement, one "end". They come live
// and, all of them again, as the node's output, which ComfyUI repeats when nothing had to run. What is drawn is
// remembered until the page's tab is closed (similarities in thousandths, at most 64 frames), and with it what the run
// before came to, to be compared with; no file gets it.

import { app } from "../../scripts/app.js";
import {
  COLOURS, addCanvas, chain, font, heat, listen, onBreak, picture, remember, remembered, runsElsewhere, write,
} from "./common.js";
import { comparison, earlier, known, lastRun, optimised, said } from "./runs.js";
import { say } from "./texts.js";

const NODE = "StableAnimatorSample";
const EVENT = "stableanimator.identity";
const HEIGHT = 304;
const FACE = 52; // px, a face in the header
const WIDTH = 400; // of a new node
const NAME = "identity";
const [LAST, DASHES] = ["#a9b4ff", [3, 3]]; // of the last run's curve

const thousandths = (values) => values.map((value) => (value === null ? null : Math.round(1000 * value)));

/** What is known after one more event. A "start" forgets all before it. */
export function hear(history, event) {
  if (event.kind === "start") {
    const { prompt_id = null, steps, first, hjb, frames, seconds, face } = event;
    return { prompt_id, steps, first, hjb, frames, seconds, face, state: "running", rows: {} };
  }
  if (event.kind === "end") return { ...history, state: "done", seconds: event.seconds };
  const row = (history.rows[event.step] ??= { refined: event.phase !== "alone", means: [] });
  row.means.push(Math.round(1000 * event.mean));
  if (event.csim) row[event.iteration ? "after" : "before"] = thousandths(event.csim);
  const { frame, csim, face } = event.worst;
  row.worst = frame;
  if (face) history.worst = { frame, csim: Math.round(1000 * csim), face };
  return { ...history, step: event.step, iteration: event.iteration };
}

/** Where everything lies: the curve above the heat strip, both over the same steps. */
function layout(history, width, height) {
  const [left, right, top] = [34, width - 30, 96];
  const bottom = height - 49;
  const split = Math.round(top + (bottom - top) * 0.52);
  const step = (right - left) / history.steps;
  const rows = Object.values(history.rows);
  const values = rows.flatMap((row) => [...row.means, ...known(row.before), ...known(row.after)]);
  const lowest = Math.min(...values, ...known(lastRun(history)?.means));
  const low = Number.isFinite(lowest) ? Math.min(Math.floor(lowest / 200) * 200, 800) : 0;
  return {
    left, right, width, height, step, low,
    curve: { top, bottom: split - 7 },
    strip: { top: split + 7, bottom },
    x: (at) => left + at * step,
    y: (value) => split - 7 - ((value - low) / (1000 - low)) * (split - 7 - top),
  };
}

/** Where in a step its measurements lie, 0..1: before HJB at the left, after its last iteration at the right. */
const within = (row, index, iterations) =>
  row.refined ? 0.1 + 0.8 * (index / Math.max(iterations, row.means.length - 1)) : 0.5;

function paintHeader(context, history, { width }, redraw) {
  const { worst: least } = history;
  const faces = [[history.face, say("reference")], [least?.face, least ? say("frameNumber", least) : say("worst")]];
  let x = 10;
  for (const [url, label] of faces) {
    context.fillStyle = COLOURS.panel;
    context.fillRect(x, 10, FACE, FACE);
    const image = picture(url, redraw);
    if (image) context.drawImage(image, x, 10, FACE, FACE);
    write(context, label, x + FACE / 2, FACE + 21, { colour: COLOURS.faint, size: 9, align: "center" });
    x += FACE + 8;
  }
  x += 6;
  const room = width - x - 8;
  const row = history.rows[history.step];
  if (!row) {
    const waiting = history.state === "running" ? say("waiting") : say("nothingMeasured");
    write(context, waiting, x, 38, { colour: COLOURS.faint, size: 12, room });
    return;
  }
  const big = { size: 22, weight: 600 };
  const [before, now] = [row.means[0], row.means[row.means.length - 1]];
  write(context, said(before), x, 27, { ...big, colour: row.refined ? COLOURS.plain : COLOURS.ink });
  if (row.means.length > 1) {
    const after = x + context.measureText(said(before)).width + 7;
    write(context, `→ ${said(now)}`, after, 27, { ...big, colour: COLOURS.good });
  }
  write(context, meaning(history, row), x, 43, { colour: COLOURS.faint, room });
  const worst = { frame: row.worst, value: said(Math.min(...known(row.after ?? row.before))) };
  write(context, say("worstFrameIs", worst), x, 58, { colour: COLOURS.bad, room });
  write(context, comparison(history), x, 73, { colour: COLOURS.ink, room });
}

/** What the number above it is: the mean of which step. */
function meaning(history, row) {
  const running = history.state === "running";
  const { iterations, steps } = history.hjb;
  if (running && row.refined) return say("meanInIteration", { ...history, iterations });
  if (running || history.step < history.steps - 1) return say("meanInStep", history);
  const step = steps?.[0];
  const start = history.rows[step]?.means[0];
  return start === undefined ? say("meanAtEnd") : say("meanAtEndOfHjb", { before: said(start), step });
}

function paintGrid(context, history, area) {
  const { left, right, low, curve, strip, x, y, step } = area;
  context.fillStyle = COLOURS.panel;
  context.fillRect(left, curve.top, right - left, curve.bottom - curve.top);
  context.fillRect(left, strip.top, right - left, strip.bottom - strip.top);
  if (history.hjb.steps) {
    const [first, last] = history.hjb.steps;
    context.fillStyle = "#4fd1b518";
    context.fillRect(x(first), curve.top, (last - first + 1) * step, curve.bottom - curve.top);
    write(context, "HJB", x(first) + 4, curve.top + 10, { colour: COLOURS.good, size: 9 });
  }
  const small = { colour: COLOURS.faint, size: 9 };
  context.strokeStyle = COLOURS.grid;
  context.lineWidth = 0.5;
  for (let value = low; value <= 1000; value += 200) {
    context.beginPath();
    context.moveTo(left, y(value));
    context.lineTo(right, y(value));
    context.stroke();
    write(context, (value / 1000).toFixed(1), left - 5, y(value) + 3, { ...small, align: "right" });
  }
  const each = [1, 2, 5, 10, 20, 50].find((count) => count * step >= 22) ?? 100;
  for (let number = 0; number < history.steps; number += each) {
    write(context, String(number), x(number + 0.5), strip.bottom + 11, { ...small, align: "center" });
  }
  write(context, say("step"), right + 4, strip.bottom + 11, small);
}

function line(context, points, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.beginPath();
  points.forEach(([px, py], index) => (index ? context.lineTo(px, py) : context.moveTo(px, py)));
  context.stroke();
}

/** What the last run came to in each step, below the curve. */
function paintLastRun(context, history, { x, y }) {
  const last = lastRun(history);
  if (!last) return;
  const [from, to] = last.hjb.steps ?? [Infinity, -Infinity];
  const points = last.means.map((mean, step) => [x(step + (from <= step && step <= to ? 0.9 : 0.5)), mean]);
  context.setLineDash(DASHES);
  line(context, points.filter(([, mean]) => mean !== null).map(([px, mean]) => [px, y(mean)]), LAST, 1);
  context.setLineDash([]);
}

function dot(context, [px, py], colour, radius) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(px, py, radius, 0, 2 * Math.PI);
  context.fill();
}

function paintCurve(context, history, { left, right, curve, x, y, step }) {
  const rows = Object.entries(history.rows).map(([number, row]) => [Number(number), row]);
  const radius = Math.min(3, Math.max(1.2, step / 6));
  const worst = [];
  const all = [];
  for (const [number, row] of rows) {
    const points = row.means.map((value, index) => [x(number + within(row, index, history.hjb.iterations)), y(value)]);
    all.push(...points);
    if (known(row.before).length) worst.push([points[0][0], y(Math.min(...known(row.before)))]);
    if (row.after) worst.push([points[points.length - 1][0], y(Math.min(...known(row.after)))]);
  }
  line(context, worst, `${COLOURS.bad}aa`, 1);
  line(context, all, `${COLOURS.ink}70`, 1);
  for (const [number, row] of rows) {
    const points = row.means.map((value, index) => [x(number + within(row, index, history.hjb.iterations)), y(value)]);
    if (points.length > 1) {
      line(context, points, COLOURS.good, 2);
      dot(context, points[points.length - 1], COLOURS.good, radius);
    }
    dot(context, points[0], COLOURS.plain, radius);
  }
  paintLegend(context, history, { left, right, y0: curve.top - 5 });
}

function paintLegend(context, history, { left, right, y0 }) {
  let end = right;
  const { bad, good, plain } = COLOURS;
  for (const [text, colour] of [[say("worstFrame"), bad], [say("afterHjb"), good], [say("mean"), plain]]) {
    write(context, text, end, y0, { colour, size: 9, align: "right" });
    end -= context.measureText(text).width + 8;
    dot(context, [end + 3, y0 - 3], colour, 2);
    end -= 10;
  }
  if (lastRun(history)) {
    const text = say("lastRun");
    write(context, text, end, y0, { colour: LAST, size: 9, align: "right" });
    end -= context.measureText(text).width + 4;
    context.setLineDash(DASHES);
    line(context, [[end - 11, y0 - 3], [end, y0 - 3]], LAST, 1);
    context.setLineDash([]);
    end -= 19;
  }
  const name = say("similarity");
  context.font = font(9);
  if (left + context.measureText(name).width < end) write(context, name, left, y0, { colour: COLOURS.faint, size: 9 });
}

function paintStrip(context, history, { left, right, low, strip, x, step }) {
  const tall = (strip.bottom - strip.top) / history.frames.length;
  const gap = step > 8 ? 1 : 0;
  const column = (values, from, wide) =>
    values.forEach((value, frame) => {
      if (value === null) return;
      context.fillStyle = heat((value - low) / (1000 - low));
      context.fillRect(from, strip.top + frame * tall, wide, Math.ceil(tall * 2) / 2 + 0.25);
    });
  for (const [number, row] of Object.entries(history.rows)) {
    const [from, wide] = [x(Number(number)), step - gap];
    if (row.before) column(row.before, from, row.after ? wide / 2 : wide);
    if (row.after) column(row.after, from + wide / 2, wide / 2);
  }
  const label = { colour: COLOURS.faint, size: 9, align: "right" };
  write(context, String(history.frames[0]), left - 5, strip.top + 8, label);
  write(context, String(history.frames[history.frames.length - 1]), left - 5, strip.bottom - 1, label);
  write(context, say("frame"), left - 5, (strip.top + strip.bottom) / 2 + 3, label);
  for (let row = strip.top; row < strip.bottom; row += 1) {
    context.fillStyle = heat(1 - (row - strip.top) / (strip.bottom - strip.top));
    context.fillRect(right + 5, row, 5, 1.5);
  }
  write(context, "1", right + 13, strip.top + 8, { ...label, align: "left" });
  write(context, (low / 1000).toFixed(1), right + 13, strip.bottom - 1, { ...label, align: "left" });
}

/** Kept steps that were run without the scope: [first, one after the last] of each that follow one another. */
export function unmeasured({ first, rows }) {
  const runs = [];
  for (let step = 0; step < first; step += 1) {
    if (rows[step]) continue;
    const run = runs[runs.length - 1];
    if (run?.[1] === step) run[1] += 1;
    else runs.push([step, step + 1]);
  }
  return runs;
}

/** Says why steps are empty, where there is room for it. */
function paintUnmeasured(context, history, { strip, x }) {
  const [text, middle] = [say("unmeasured"), (strip.top + strip.bottom) / 2 + 3];
  context.font = font(10);
  const wide = context.measureText(text).width;
  for (const [from, to] of unmeasured(history).map((run) => run.map(x))) {
    if (wide > to - from - 4) continue;
    write(context, text, (from + to) / 2, middle, { colour: COLOURS.faint, size: 10, align: "center" });
  }
}

/** Marks the steps that were not run again; while the others run, they step back. */
function paintKept(context, history, { left, strip, x, right }) {
  const { first, steps, state } = history;
  if (!first) return;
  line(context, [[left, strip.bottom + 15], [x(first) - 2, strip.bottom + 15]], COLOURS.faint, 2);
  if (first < steps) line(context, [[x(first), strip.bottom + 15], [right, strip.bottom + 15]], COLOURS.good, 2);
  if (state !== "running") return;
  context.fillStyle = `${COLOURS.paper}90`;
  context.fillRect(left, strip.top, x(first) - left, strip.bottom - strip.top);
  write(context, say("kept"), left + 4, strip.bottom - 4, { size: 10, weight: 600, room: x(first) - left - 6 });
}

/** What the pointer is over: a step and the index of a frame; null elsewhere. */
function place(history, area, pointer) {
  const step = Math.floor((pointer.x - area.left) / area.step);
  if (step < 0 || step >= history.steps || pointer.y < area.curve.top || pointer.y > area.strip.bottom) return null;
  const down = (pointer.y - area.strip.top) / (area.strip.bottom - area.strip.top);
  const last = history.frames.length - 1;
  return { step, frame: down >= 0 ? Math.min(Math.floor(down * (last + 1)), last) : null };
}

/** One line about a step, or about a frame in it, and what it was in the last run. */
export function sentence(history, over) {
  const { step, frame } = over;
  const last = lastRun(history);
  const value = frame === null ? last?.means[step] : step === history.steps - 1 ? last?.csim[frame] : null;
  const text = presently(history, over);
  return (value ?? null) === null ? text : say("andLastRun", { text, value: said(value) });
}

function presently(history, { step, frame }) {
  const row = history.rows[step];
  if (!row) return say("notMeasured", { step });
  const value = (values, whole) => (frame === null ? whole : values?.[frame]);
  const before = value(row.before, row.means[0]);
  const after = row.after && value(row.after, row.means[row.means.length - 1]);
  const where = frame === null ? say("atStep", { step }) : say("atFrame", { step, frame: history.frames[frame] });
  if (before === null) return say("noFace", { where });
  if (before === undefined) return where;
  if (after === undefined) return say("valueIs", { where, value: said(before) });
  return say("valuesAre", { where, before: said(before), after: said(after) });
}

const lasting = (seconds) =>
  seconds < 90 ? say("seconds", { seconds }) : say("minutes", { minutes: Math.round(seconds / 60) });

/** One line about the run: what it does, did, or came to. */
export function outcome({ state, step = 0, steps, first, seconds, face, left }) {
  if (state === "stopped") return say("stopped", { step });
  const values = { steps, first, last: steps - 1, kept: first - 1, time: lasting(seconds) };
  if (state === "running") {
    const rest = left && { done: left.done, steps, time: lasting(left.seconds) };
    if (left) return left.whole ? say("timeLeft", rest) : say("timeLeftPlain", rest);
    if (first === steps) return say("willRunNothing", values);
    const text = first ? say("willRunRest", values) : say("willRun", values);
    return seconds === null ? text : say("about", { ...values, text });
  }
  const text = first === steps ? say("ranNothing", values) : first ? say("ranRest", values) : say("ran", values);
  return face ? text : say("faceless", { text });
}

function paint(context, width, height, history, pointer, redraw) {
  context.fillStyle = COLOURS.paper;
  context.fillRect(0, 0, width, height);
  if (!history) {
    const middle = { colour: COLOURS.faint, size: 12, align: "center" };
    const title = { ...middle, colour: COLOURS.ink, size: 13, weight: 600 };
    write(context, say("scopeTitle"), width / 2, height / 2 - 8, title);
    write(context, say("scopeEmpty"), width / 2, height / 2 + 12, middle);
    return;
  }
  const area = layout(history, width, height);
  paintHeader(context, history, area, redraw);
  paintGrid(context, history, area);
  paintLastRun(context, history, area);
  paintCurve(context, history, area);
  paintStrip(context, history, area);
  paintUnmeasured(context, history, area);
  paintKept(context, history, area);
  const over = pointer && place(history, area, pointer);
  if (over) {
    context.strokeStyle = COLOURS.ink;
    context.lineWidth = 1;
    context.strokeRect(area.x(over.step), area.curve.top, area.step, area.strip.bottom - area.curve.top);
  }
  const compared = pointer && pointer.y < area.curve.top && comparison(history); // the header may have cut it
  const pointed = over ? sentence(history, over) : compared;
  write(context, optimised(history.hjb), 10, height - 21, { colour: COLOURS.faint, size: 11, room: width - 20 });
  const colour = pointed ? COLOURS.ink : COLOURS.faint;
  write(context, pointed || outcome(history), 10, height - 7, { colour, size: 11, room: width - 20 });
}

const scopes = new WeakMap(); // node -> { hear(event), stop() }
let live; // the scope that heard the latest event

listen(EVENT, (node, event) => {
  live = scopes.get(node);
  live?.hear(event);
});
listen("stableanimator.left", (node, left) => scopes.get(node)?.count(left));
onBreak((prompt) => live?.stop(prompt));

function addScope(node) {
  const state = { history: null, before: null, pointer: null }; // before: the history before this run's
  const { canvas, widget, redraw } = addCanvas(node, NAME, HEIGHT, (context, width, height) =>
    paint(context, width, height, state.history, state.pointer, redraw),
  );
  canvas.title = say("scopeHint");
  canvas.addEventListener("pointermove", (event) => {
    state.pointer = { x: event.offsetX, y: event.offsetY };
    redraw();
  });
  canvas.addEventListener("pointerleave", () => {
    state.pointer = null;
    redraw();
  });
  node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);

  const draw = (history) => {
    state.history = history;
    redraw();
  };
  const begin = (history) => {
    state.before = state.history;
    return compare(history);
  };
  const compare = (history) => ({ ...history, last: earlier(state.before, history) });
  const finish = (history) => {
    remember(node, NAME, history);
    draw(history);
  };
  scopes.set(node, {
    hear(event) {
      if (event.kind === "start") draw(begin((event.kept ?? []).reduce(hear, hear(null, event))));
      else if (state.history?.prompt_id === event.prompt_id) {
        const history = hear(state.history, event);
        if (event.kind === "end") finish(compare(history));
        else draw(history);
      }
    },
    count(left) {
      if (state.history?.prompt_id === left.prompt_id) draw({ ...state.history, left });
    },
    stop(prompt) {
      const { history } = state;
      if (history?.state === "running" && history.prompt_id === prompt) finish({ ...history, state: "stopped" });
    },
  });
  chain(node, "onExecuted", (output) => {
    if (output?.identity?.length && !runsElsewhere()) finish(begin(output.identity.reduce(hear, null)));
  });
  chain(node, "onConfigure", () => {
    const history = remembered(node, NAME);
    draw(history?.hjb ? history : null); // one without is an earlier version's
  });

  const switched = node.widgets.find(({ name }) => name === "identity_scope");
  const show = () => {
    const hidden = switched?.value === false;
    if (Boolean(widget.hidden) === hidden) return false;
    widget.hidden = canvas.parentElement.hidden = hidden; // the latter for Vue nodes
    node.setDirtyCanvas(true, true);
    redraw();
    return true;
  };
  if (switched) {
    chain(switched, "callback", () => {
      if (show()) node.setSize([node.size[0], node.computeSize()[1]]);
    });
  }
  chain(node, "onConfigure", show); // the workflow says how large the node is
}

app.registerExtension({
  name: "StableAnimator.IdentityScope",
  nodeCreated(node) {
    if (node.comfyClass === NODE) addScope(node);
  },
});

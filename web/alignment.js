// The alignment view below Align Poses: reference, driver and result over the picture, frame by frame, all methods side
// by side, and the result to be nudged by hand. The server sends every method's joints before the nudge
// (alignment/view.py); the nudge is drawn here, by the formula of alignment/nudge.py, and written into four widgets.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { COLOURS, addCanvas, chain, noteChange, picture, remember, remembered, write } from "./common.js";
import { outdate } from "./notes.js";
import { say } from "./texts.js";

const NODE = "StableAnimatorAlignPoses";
const NAME = "alignment";
const KEPT_FRAMES = 16; // for after a reload
const HEIGHT = 470;
const WIDTH = 420; // of a new node
const NUDGES = ["nudge_x", "nudge_y", "nudge_scale", "nudge_rotate"];
const NEUTRAL = [0, 0, 1, 0];
const SETTINGS = ["method", "fit", "proportions", ...NUDGES]; // what the result depends on
const RECOMMENDED = "learned"; // on motion whose right place is known it is the nearest by far
// What a method is, in a word or two. How near its joints come is no measure of it, so cells do not say that.
const ROLES = {
  learned: () => say("roleLearned"),
  svd: () => say("roleSvd"),
  affine: () => say("roleAffine"),
  homography: () => say("roleHomography"),
  v1: () => say("roleV1"),
  none: () => say("roleNone"),
};
const STEPS = [0.1, 0.1, 0.001, 0.5]; // what a hand's values are rounded to
const GRIP = 9; // px around a handle that take hold of it
const PLAY_MS = 90; // a frame
const [HEAD, CURVE, METHODS, FOOT] = [26, 62, 96, 24]; // px, heights of all but the stage

/** Joints x0, y0, x1 ... (null: not seen) after a nudge: p' = pivot + scale · rotation · (p - pivot) + (x, y). */
export function nudged(joints, [x, y, scale, rotate], [px, py], unit) {
  const angle = (rotate * Math.PI) / 180;
  const [cos, sin] = [scale * Math.cos(angle), scale * Math.sin(angle)];
  const moved = [...joints];
  for (let i = 0; i < joints.length; i += 2) {
    if (joints[i] === null) continue;
    const [dx, dy] = [joints[i] - px, joints[i + 1] - py];
    moved[i] = px + cos * dx - sin * dy + (x / 100) * unit;
    moved[i + 1] = py + sin * dx + cos * dy + (y / 100) * unit;
  }
  return moved;
}

/** Root mean square distance of joints that both show; null without any. */
export function distance(joints, reference) {
  let [sum, count] = [0, 0];
  for (let i = 0; i < joints.length; i += 2) {
    if (joints[i] === null || reference[i] === null) continue;
    sum += (joints[i] - reference[i]) ** 2 + (joints[i + 1] - reference[i + 1]) ** 2;
    count += 1;
  }
  return count ? Math.sqrt(sum / count) : null;
}

/** The box around joints, [left, top, right, bottom]; null without any. */
function boxOf(joints) {
  const xs = joints.filter((value, i) => i % 2 === 0 && value !== null);
  const ys = joints.filter((value, i) => i % 2 === 1 && value !== null);
  return xs.length ? [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)] : null;
}

/** How a part of the reference's canvas, [left, top, right, bottom], fits a box of the page with `room` around it. */
function fit([left, top, right, bottom], { x, y, width, height }, room) {
  const scale = Math.min((width - 2 * room) / (right - left), (height - 2 * room) / (bottom - top));
  const [dx, dy] = [x + (width - scale * (left + right)) / 2, y + (height - scale * (top + bottom)) / 2];
  return { scale, at: (px, py) => [dx + scale * px, dy + scale * py] };
}

/** Where the parts lie. */
function layout(width, height) {
  const foot = height - FOOT;
  const methods = foot - METHODS;
  const curve = methods - CURVE;
  return {
    stage: { x: 0, y: HEAD, width, height: curve - HEAD },
    play: { x: 6, y: curve + 14, width: 26, height: CURVE - 30 },
    curve: { x: 40, y: curve + 8, width: width - 90, height: CURVE - 24 },
    methods: { x: 6, y: methods, width: width - 12, height: METHODS - 4 },
    reset: { x: width - 62, y: foot + 2, width: 54, height: FOOT - 6 },
    foot: { x: 10, y: foot + 15, width: width - 84 },
  };
}

const inside = ({ x, y, width, height }, [px, py]) => px >= x && px <= x + width && py >= y && py <= y + height;
const near = ([x0, y0], [x1, y1]) => Math.hypot(x0 - x1, y0 - y1) <= GRIP;
const rgb = (colour) => `rgb(${colour.join(", ")})`;
const pixels = (distance) => say("pixels", { number: distance.toFixed(1) });

function skeleton(context, joints, limbs, place, colour, width, edge = 0) {
  context.lineCap = "round";
  for (const [pen, wide] of edge ? [[COLOURS.paper, width + 2 * edge], [colour, width]] : [[colour, width]]) {
    context.strokeStyle = context.fillStyle = pen;
    context.lineWidth = wide;
    for (const [a, b] of limbs) {
      if (joints[2 * a] === null || joints[2 * b] === null) continue;
      context.beginPath();
      context.moveTo(...place.at(joints[2 * a], joints[2 * a + 1]));
      context.lineTo(...place.at(joints[2 * b], joints[2 * b + 1]));
      context.stroke();
    }
    for (let i = 0; i < joints.length; i += 2) {
      if (joints[i] === null) continue;
      context.beginPath();
      context.arc(...place.at(joints[i], joints[i + 1]), 0.75 * wide, 0, 2 * Math.PI);
      context.fill();
    }
  }
}

/** One alignment view on one node: what is shown, and what the pointer does with it. */
class AlignmentView {
  constructor(node) {
    this.node = node;
    this.view = null;
    this.index = 0; // among the frames that are shown
    this.drag = null; // what a move of the pointer to a point does while something is held
    this.player = 0;
    const { canvas, redraw } = addCanvas(node, NAME, HEIGHT, (...given) => this.paint(...given));
    this.canvas = canvas;
    this.redraw = redraw;
    canvas.tabIndex = 0;
    canvas.style.outline = "none";
    canvas.style.touchAction = "none";
    canvas.dataset.captureWheel = "true"; // Vue nodes leave the wheel to what has the focus
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", (event) => this.release(event));
    canvas.addEventListener("pointerleave", () => canvas.blur());
    canvas.addEventListener("wheel", (event) => this.wheel(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  widget(name) {
    return this.node.widgets.find((each) => each.name === name);
  }

  get nudge() {
    return NUDGES.map((name, i) => this.widget(name)?.value ?? NEUTRAL[i]);
  }

  /** Write the nudge into its widgets, rounded and within their limits. */
  set nudge(values) {
    values.forEach((value, i) => {
      const { min, max } = this.widget(NUDGES[i]).options;
      const rounded = Number((Math.round(value / STEPS[i]) * STEPS[i]).toFixed(3));
      this.write(NUDGES[i], Math.min(Math.max(rounded, min), max));
    });
  }

  write(name, value) {
    const widget = this.widget(name);
    if (!widget || widget.value === value) return;
    widget.value = value;
    widget.callback?.(value, app.canvas, this.node);
    this.node.setDirtyCanvas(true, true);
    this.redraw();
  }

  /** The method that is drawn: the widget's, if the server sent it. */
  get method() {
    const wanted = this.widget("method")?.value;
    return this.view.methods[wanted]?.joints ? wanted : this.view.method;
  }

  get shown() {
    return this.view.methods[this.method];
  }

  joints(index) {
    return nudged(this.shown.joints[index], this.nudge, this.shown.pivot, this.view.unit);
  }

  /** Whether a run would do something else than the last one. */
  get pending() {
    const ran = { ...this.view, ...Object.fromEntries(NUDGES.map((name, i) => [name, this.view.nudge[i]])) };
    const differ = (one, other) => (typeof one === "number" ? Math.abs(one - other) > 1e-6 : one !== other);
    return SETTINGS.some((name) => this.widget(name) && differ(this.widget(name).value, ran[name]));
  }

  /** Show what the server sent, and remember a part of it; the picture is there until the server stops. */
  show(view) {
    const worst = Math.max(0, view.frames.length - 1);
    this.view = view;
    this.index = Math.min(this.index, worst);
    const count = Math.min(KEPT_FRAMES, view.frames.length);
    const picked = Array.from({ length: count }, (_, i) => Math.round((i * worst) / Math.max(1, count - 1)));
    const pick = (rows) => picked.map((i) => rows[i]);
    const chosen = view.methods[view.method];
    remember(this.node, NAME, {
      ...view,
      frames: pick(view.frames),
      driver: pick(view.driver),
      methods: { [view.method]: { ...chosen, joints: pick(chosen.joints) } },
    });
    this.redraw();
  }

  /** Show what is remembered of the last run. */
  restore() {
    this.view ??= remembered(this.node, NAME);
    this.redraw();
  }

  paint(context, width, height) {
    context.fillStyle = COLOURS.paper;
    context.fillRect(0, 0, width, height);
    this.area = layout(width, height);
    if (!this.view) {
      const middle = { colour: COLOURS.faint, size: 12, align: "center", room: width - 20 };
      const title = { ...middle, colour: COLOURS.ink, size: 13, weight: 600 };
      write(context, say("alignmentTitle"), width / 2, height / 2 - 8, title);
      write(context, say("alignmentEmpty"), width / 2, height / 2 + 12, middle);
      return;
    }
    this.place = fit([0, 0, this.view.width, this.view.height], this.area.stage, 8);
    this.paintHead(context, width);
    this.paintStage(context);
    this.paintCurve(context);
    this.paintMethods(context);
    this.paintFoot(context);
  }

  paintHead(context, width) {
    const { view, index } = this;
    let x = 10;
    const { reference, driver, result } = view.colours;
    const legend = [[say("reference"), reference], [say("driver"), driver], [say("result"), result]];
    for (const [name, colour] of legend) {
      context.fillStyle = rgb(colour);
      context.beginPath();
      context.arc(x + 3, 13, 4, 0, 2 * Math.PI);
      context.fill();
      write(context, name, x + 11, 17);
      x += context.measureText(name).width + 24;
    }
    const off = distance(this.joints(index), view.reference);
    let told = off === null ? say("nothingToCompare") : say("distanceIs", { distance: pixels(off) });
    if (width >= 340) told = say("inFrame", { frame: view.frames[index], text: told }); // else too narrow
    write(context, told, width - 10, 17, { weight: 600, align: "right" });
  }

  paintStage(context) {
    const { view, place, index } = this;
    const { x, y, width, height } = this.area.stage;
    const colours = view.colours;
    const short = place.scale * Math.min(view.width, view.height);
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    const corner = [...place.at(0, 0), place.scale * view.width, place.scale * view.height];
    context.fillStyle = COLOURS.panel;
    context.fillRect(...corner);
    const image = view.picture && picture(api.apiURL(`/view?${new URLSearchParams(view.picture)}`), this.redraw);
    if (image) {
      context.globalAlpha = 0.5;
      context.drawImage(image, ...corner);
      context.globalAlpha = 1;
    }
    skeleton(context, view.reference, view.limbs, place, rgb(colours.reference), Math.max(4, 0.02 * short), 1);
    skeleton(context, view.driver[index], view.limbs, place, rgb(colours.driver), Math.max(1, 0.0045 * short));
    skeleton(context, this.joints(index), view.limbs, place, rgb(colours.result), Math.max(2, 0.008 * short), 1);
    this.paintHandles(context);
    context.restore();
  }

  /** The corners of the frame around the result, its knob and its pivot, in page px; null where nobody is seen. */
  handles() {
    const { view, shown } = this;
    const box = boxOf(shown.joints[this.index]);
    if (!box) return null;
    const room = 0.04 * view.unit;
    const [left, top, right, bottom] = [box[0] - room, box[1] - room, box[2] + room, box[3] + room];
    const points = [left, top, right, top, right, bottom, left, bottom, (left + right) / 2, top, ...shown.pivot];
    const moved = nudged(points, this.nudge, shown.pivot, view.unit);
    const pairs = Array.from({ length: 6 }, (_, i) => this.place.at(moved[2 * i], moved[2 * i + 1]));
    const [edge, pivot] = pairs.slice(4);
    const away = Math.hypot(edge[0] - pivot[0], edge[1] - pivot[1]) || 1;
    const knob = [edge[0] + (18 * (edge[0] - pivot[0])) / away, edge[1] + (18 * (edge[1] - pivot[1])) / away];
    return { corners: pairs.slice(0, 4), edge, knob, pivot };
  }

  paintHandles(context) {
    const handles = this.handles();
    if (!handles) return;
    const { corners, edge, knob, pivot } = handles;
    context.strokeStyle = `${COLOURS.ink}b0`;
    context.fillStyle = COLOURS.ink;
    context.lineWidth = 1;
    context.setLineDash([4, 4]);
    context.beginPath();
    corners.forEach((corner, i) => (i ? context.lineTo(...corner) : context.moveTo(...corner)));
    context.closePath();
    context.moveTo(...edge);
    context.lineTo(...knob);
    context.stroke();
    context.setLineDash([]);
    for (const [x, y] of corners) context.fillRect(x - 4, y - 4, 8, 8);
    context.beginPath();
    context.arc(...knob, 5, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    context.moveTo(pivot[0] - 6, pivot[1]);
    context.lineTo(pivot[0] + 6, pivot[1]);
    context.moveTo(pivot[0], pivot[1] - 6);
    context.lineTo(pivot[0], pivot[1] + 6);
    context.stroke();
  }

  paintCurve(context) {
    const { view, index } = this;
    const { x, y, width, height } = this.area.curve;
    const last = Math.max(1, view.frames.length - 1);
    const off = view.frames.map((_, i) => distance(this.joints(i), view.reference));
    const known = off.filter((value) => value !== null);
    const most = 1.15 * Math.max(...known, 1e-6);
    const at = (i, value) => [x + (i / last) * width, y + height - (Math.min(value, most) / most) * height];
    context.fillStyle = COLOURS.panel;
    context.fillRect(x, y, width, height);
    const draw = (values, colour, wide) => {
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.beginPath();
      values.forEach((value, i) => {
        if (value === null) return;
        if (i && values[i - 1] !== null) context.lineTo(...at(i, value));
        else context.moveTo(...at(i, value));
      });
      context.stroke();
    };
    draw(off, rgb(view.colours.result), 1.5);
    context.fillStyle = rgb(view.colours.worst);
    if (known.length > 1) {
      context.beginPath();
      context.arc(...at(off.indexOf(Math.max(...known)), Math.max(...known)), 3, 0, 2 * Math.PI);
      context.fill();
    }
    const [cursor] = at(index, 0);
    context.fillStyle = COLOURS.ink;
    context.fillRect(cursor - 0.75, y, 1.5, height);
    context.beginPath();
    context.arc(cursor, y + height, 5, 0, 2 * Math.PI);
    context.fill();
    const small = { colour: COLOURS.faint, size: 9 };
    write(context, say("frameNumber", { frame: view.frames[0] }), x, y + height + 13, small);
    write(context, String(view.frames.at(-1)), x + width, y + height + 13, { ...small, align: "right" });
    if (known.length) {
      write(context, pixels(Math.max(...known)), x + width + 5, at(0, Math.max(...known))[1] + 3, small);
      write(context, "0", x + width + 5, y + height, small);
    }

    const { x: left, y: top, width: wide, height: tall } = this.area.play;
    context.fillStyle = COLOURS.ink;
    const [middle, centre] = [left + wide / 2, top + tall / 2];
    if (this.player) {
      context.fillRect(middle - 6, centre - 7, 4, 14);
      context.fillRect(middle + 2, centre - 7, 4, 14);
    } else {
      context.beginPath();
      context.moveTo(middle - 5, centre - 8);
      context.lineTo(middle + 8, centre);
      context.lineTo(middle - 5, centre + 8);
      context.fill();
    }
  }

  /** The cells of the methods, by name, the recommended one first. */
  cells() {
    const { x, y, width, height } = this.area.methods;
    const names = [...(this.widget("method")?.options?.values ?? Object.keys(this.view.methods))];
    names.sort((one, other) => (other === RECOMMENDED) - (one === RECOMMENDED));
    const wide = width / names.length;
    return names.map((name, i) => [name, { x: x + i * wide + 2, y, width: wide - 4, height }]);
  }

  paintMethods(context) {
    const { view } = this;
    const [left, top, right, bottom] = boxOf(view.reference) ?? [0, 0, view.width, view.height];
    const aside = 0.15 * view.unit; // what lies further off is cut
    const part = [left - aside, top - aside, right + aside, bottom + aside];
    for (const [name, cell] of this.cells()) {
      const { joints, error } = view.methods[name] ?? {};
      const chosen = name === this.widget("method")?.value;
      context.fillStyle = COLOURS.panel;
      context.fillRect(cell.x, cell.y, cell.width, cell.height);
      context.save();
      context.beginPath();
      context.rect(cell.x, cell.y, cell.width, cell.height - 28);
      context.clip();
      const place = fit(part, { ...cell, height: cell.height - 28 }, 2);
      if (joints) {
        skeleton(context, view.reference, view.limbs, place, rgb(view.colours.reference), 3);
        skeleton(context, joints[this.index], view.limbs, place, rgb(view.colours.result), 1.2);
      }
      context.restore();
      if (chosen) {
        context.strokeStyle = rgb(view.colours.result);
        context.lineWidth = 1.5;
        context.strokeRect(cell.x + 0.75, cell.y + 0.75, cell.width - 1.5, cell.height - 1.5);
      }
      const centre = { align: "center", room: cell.width };
      const [middle, below] = [cell.x + cell.width / 2, cell.y + cell.height - 17];
      write(context, name, middle, below, { ...centre, size: 10, weight: chosen ? 600 : undefined });
      const told = error ? say("notPossible") : joints ? (ROLES[name]?.() ?? "") : say("runToSee");
      const colour = error ? COLOURS.bad : name === RECOMMENDED ? COLOURS.good : COLOURS.faint;
      write(context, told, middle, below + 12, { ...centre, size: 9, colour });
    }
  }

  paintFoot(context) {
    const { x, y, width } = this.area.foot;
    const [right, down, scale, turned] = this.nudge;
    const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value)}`;
    const moved = this.nudge.some((value, i) => value !== NEUTRAL[i]);
    const nudge = { right: signed(right), down: signed(down), scale, turned: signed(turned) };
    const told = moved ? say("nudged", nudge) : say("dragToNudge");
    outdate(this.node, this.pending);
    const text = this.pending ? say("runToApply", { text: told }) : told;
    write(context, text, x, y, { room: width, colour: this.pending ? COLOURS.plain : COLOURS.faint });
    if (!moved) return;
    const button = this.area.reset;
    context.fillStyle = COLOURS.grid;
    context.beginPath();
    context.roundRect(button.x, button.y, button.width, button.height, 4);
    context.fill();
    write(context, say("reset"), button.x + button.width / 2, y, { align: "center" });
  }

  /** What lies under a point: a handle or part of the view, and what it says. */
  target(point) {
    const { area, view } = this;
    if (!view) return {};
    const cell = this.cells().find(([, each]) => inside(each, point));
    const honest = say("distanceHint");
    if (cell) return { part: "method", name: cell[0], cursor: "pointer", hint: this.told(cell[0]) };
    if (inside({ ...area.curve, y: area.curve.y - 6, height: area.curve.height + 18 }, point)) {
      return { part: "curve", cursor: "ew-resize", hint: honest };
    }
    if (inside(area.play, point)) return { part: "play", cursor: "pointer", hint: say("play") };
    if (inside(area.reset, point)) return { part: "reset", cursor: "pointer", hint: say("resetHint") };
    if (!inside(area.stage, point)) return {};
    const handles = this.handles();
    if (!handles) return {};
    const hint = say("dragHint");
    if (near(handles.knob, point)) return { part: "turn", handles, cursor: "grab", hint };
    const corner = handles.corners.findIndex((each) => near(each, point));
    if (corner >= 0) return { part: "scale", handles, cursor: corner % 2 ? "nesw-resize" : "nwse-resize", hint };
    return { part: "move", handles, cursor: "move", hint };
  }

  /** What a method's cell says when the pointer rests on it. */
  told(name) {
    const { error, residual } = this.view.methods[name] ?? {};
    if (error) return error;
    if (residual === undefined || residual === null) return say("methodsHint");
    return `${say("methodHint", { name, distance: pixels(residual) })}\n\n${say("methodsHint")}`;
  }

  press(event) {
    if (event.button !== 0) return;
    const point = [event.offsetX, event.offsetY];
    const target = this.target(point);
    if (!target.part) return;
    const acts = { method: this.choose, curve: this.scrub, play: this.play, reset: this.reset };
    event.stopPropagation();
    this.canvas.setPointerCapture(event.pointerId);
    (acts[target.part] ?? this.hold).call(this, target, point);
  }

  hover(event) {
    const point = [event.offsetX, event.offsetY];
    if (this.drag) {
      event.stopPropagation();
      this.drag(point);
      return;
    }
    const { cursor, hint } = this.target(point);
    this.canvas.style.cursor = cursor ?? "default";
    this.canvas.title = hint ?? "";
  }

  release() {
    if (this.drag) noteChange();
    this.drag = null;
  }

  choose({ name }) {
    if (!this.view.methods[name]?.error) this.write("method", name);
    noteChange();
  }

  scrub(_, point) {
    const { x, width } = this.area.curve;
    const last = this.view.frames.length - 1;
    this.drag = ([px]) => {
      this.index = Math.min(Math.max(Math.round(((px - x) / width) * last), 0), last);
      this.redraw();
    };
    this.drag(point);
  }

  play() {
    if (this.player) this.pause();
    else {
      this.player = setInterval(() => {
        if (!this.canvas.clientWidth) this.pause(); // out of sight: its graph was left or closed
        this.index = (this.index + 1) % this.view.frames.length;
        this.redraw();
      }, PLAY_MS);
    }
    this.redraw();
  }

  pause() {
    clearInterval(this.player);
    this.player = 0;
  }

  reset() {
    this.nudge = NEUTRAL;
    noteChange();
  }

  /** Take hold of the result at a handle, or anywhere else to move it. */
  hold({ part, handles }, from) {
    this.canvas.focus({ preventScroll: true });
    const [x, y, scale, rotate] = this.nudge;
    const per = 100 / (this.view.unit * this.place.scale); // % for a page px
    const [px, py] = handles.pivot;
    const reach = ([ax, ay]) => Math.hypot(ax - px, ay - py) || 1;
    const angle = ([ax, ay]) => (Math.atan2(ay - py, ax - px) * 180) / Math.PI;
    const acts = {
      move: (to) => [x + per * (to[0] - from[0]), y + per * (to[1] - from[1]), scale, rotate],
      scale: (to) => [x, y, (scale * reach(to)) / reach(from), rotate],
      turn: (to) => [x, y, scale, ((rotate + angle(to) - angle(from) + 540) % 360) - 180],
    };
    this.drag = (to) => {
      this.nudge = acts[part](to);
    };
  }

  /** The wheel belongs to the graph until the result was touched. */
  wheel(event) {
    const over = this.target([event.offsetX, event.offsetY]).part;
    if (document.activeElement !== this.canvas || !over) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y, scale, rotate] = this.nudge;
    const turns = -Math.sign(event.deltaY || event.deltaX);
    this.nudge = event.shiftKey ? [x, y, scale, rotate - turns] : [x, y, scale * 1.02 ** turns, rotate];
    noteChange();
  }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || !this.view) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y, ...rest] = this.nudge;
    const far = event.shiftKey ? 5 : 0.5;
    this.nudge = [x + far * way[0], y + far * way[1], ...rest];
    noteChange();
  }
}

app.registerExtension({
  name: "StableAnimator.AlignmentView",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const view = new AlignmentView(node);
    node.setSize([Math.max(node.size[0], WIDTH), node.computeSize()[1]]);
    chain(node, "onExecuted", (output) => output?.alignment?.[0] && view.show(output.alignment[0]));
    chain(node, "onConfigure", () => view.restore());
    chain(node, "onRemoved", () => view.pause());
    for (const name of SETTINGS) {
      const widget = view.widget(name);
      if (widget) chain(widget, "callback", view.redraw);
    }
  },
});

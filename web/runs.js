// What a run of Sample came to, beside the one before it, and what HJB did in it, in words. scope.js draws them.
//
// A history is what the scope knows of a run, similarities in thousandths; its `last` is the run before.

import { say } from "./texts.js";

const STRENGTHS = {
  falling: () => say("strengthFalling"),
  even: () => say("strengthEven"),
  rising: () => say("strengthRising"),
  middle: () => say("strengthMiddle"),
};
// Why HJB does nothing.
const OFF = {
  settings: () => say("hjbOff"),
  face: () => say("hjbFaceless"),
  strength: () => say("hjbPowerless"),
};

/** A similarity in thousandths, as it is read. */
export const said = (value) => (value / 1000).toFixed(2);

/** Those of some values that are not null. */
export const known = (values) => (values ?? []).filter((value) => value !== null);

/** What a run came to: the mean at each step's end, and every frame's similarity at the end; null: not measured. */
function brief({ hjb, steps, frames, rows }) {
  const { before, after } = rows[steps - 1] ?? {};
  const means = Array.from({ length: steps }, (_, step) => rows[step]?.means.at(-1) ?? null);
  return { hjb, frames, means, csim: after ?? before ?? null };
}

const alike = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const comparable = (run, { steps, frames }) => run?.means.length === steps && alike(run.frames, frames);

/**
 * The run that `history` is compared with: the last one that was finished, of the same frames and steps if there is
 * one. `before` is the history before; one that came to all the same, as a cached run's, is the same run.
 */
export function earlier(before, history) {
  const run = before?.state === "done" && brief(before);
  const other = run && run.csim && !alike(run, brief(history)) ? run : null;
  const runs = [other, before?.last].filter(Boolean);
  return runs.find((each) => comparable(each, history)) ?? runs[0] ?? null;
}

/** What the history's numbers can be compared with; null if nothing. */
export const lastRun = (history) => (comparable(history.last, history) ? history.last : null);

/** What HJB does, in words, one for each setting. */
function settings({ iterations, steps: [first, last], lr, strength, stop, sharpest, decode, scope }) {
  const rounds = iterations === 1 ? say("iteration") : say("iterations", { iterations });
  return [
    stop === "adaptive" ? say("upTo", { rounds }) : rounds,
    first === last ? say("inStep", { step: first }) : say("inSteps", { first, last }),
    say("rate", { lr }),
    STRENGTHS[strength]?.() ?? say("strengthOwn"),
    ...(sharpest ? [say("sharpest", { sharpest })] : []),
    ...(decode ? [say("decodeFull")] : []),
    ...(scope ? [say("scopeAll")] : []),
  ];
}

/** One line about what HJB does. */
export const optimised = (hjb) =>
  hjb.off ? OFF[hjb.off]() : say("hjbDoes", { settings: settings(hjb).join(say("comma")) });

/** In which settings of HJB another run differed, in words. */
function difference(hjb, other) {
  if (alike(hjb, other)) return say("sameHjb");
  if (hjb.off || other.off) return other.off ? OFF[other.off]() : settings(other).join(say("comma"));
  const usual = ({ decode, scope }) => [...(decode ? [] : [say("decodeFace")]), ...(scope ? [] : [say("scopeFace")])];
  const now = [...settings(hjb), ...usual(hjb)];
  return [...settings(other), ...usual(other)].filter((each) => !now.includes(each)).join(say("comma"));
}

/** One line of numbers: how alike the faces are now, and how alike they were in the run before, which differed. */
export function comparison(history) {
  const { state, step, steps, hjb, rows } = history;
  const other = lastRun(history);
  const last = other?.means[step];
  if (!rows[step] || (last ?? null) === null) return "";
  const values = { now: said(rows[step].means.at(-1)), last: said(last), how: difference(hjb, other.hjb) };
  return state === "running" || step < steps - 1 ? say("comparedInStep", values) : say("compared", values);
}

// One session on the page: its pictures or plots, what it has shown so far, and how it is doing.

import { element } from "./card.js";
import { Film } from "./film.js";
import { H264_DELTA, MAP, PICTURE, VECTOR } from "./link.js";
import { drawImage, drawSpark, drawVector, outline } from "./plot.js";

const REMEMBER = 2400; // frames kept for looking back
const SHORT = 40, LONG = 150; // frames across a plot, at the start and at most

export class Pane {
  constructor(opened, { onFocus, onClose, onShown }) {
    this.session = opened.session;
    this.about = opened.about;
    this.opened = opened;
    this.onShown = onShown;
    this.epoch = 0;
    this.frames = []; // ticks, consecutive
    this.looking = null; // frame looked back at, null for the present
    this.running = false;
    this.watching = opened.watching; // somebody else plays
    this.waiting = !this.watching; // the next action starts the clock
    this.seq = 0;
    this.sent = "{}";
    this.text = null; // the sentence that holds here
    this.asked = new Map(); // seq -> when
    this.drawing = Promise.resolve();
    this.views = new Map();
    this.build(onFocus, onClose);
  }

  build(onFocus, onClose) {
    this.name = element("span", { class: "number" });
    this.badge = element("span", { class: "badge" });
    this.watched = element("span", { class: "watched" });
    this.close = element("button", { type: "button", class: "icon small", title: "Close this pane", "aria-label": "Close this pane", onclick: (e) => { e.stopPropagation(); onClose(this); } }, "×");
    this.holder = element("div", { class: "views" });
    this.hint = element("div", { class: "hint" }, "Press a key to begin");
    this.reward = element("output", {}, "0");
    this.score = element("output", {}, "0");
    this.end = element("output", {}, "0 %");
    this.endBar = element("i");
    this.gap = element("output", {}, "–");
    this.spark = element("canvas", { class: "spark", "aria-hidden": "true" });
    const measure = (label, help, ...nodes) => element("div", { class: "measure", title: help }, element("span", { class: "label" }, label), ...nodes);
    this.node = element("section", { class: "pane", "aria-label": `Session ${this.session}`, onpointerdown: () => onFocus(this) },
      element("header", {}, this.name, this.badge, this.watched, this.hint, this.close),
      element("div", { class: "holder" }, this.holder),
      element("footer", {},
        measure("Reward", "Predicted for the last step; in blue what the environment gave", this.reward),
        measure("Score", "Sum of rewards; in blue the environment's", this.score),
        measure("Ends here", "Predicted chance that the episode ends at this frame", this.end, element("span", { class: "meter", "aria-hidden": "true" }, this.endBar)),
        measure("Off truth", "Mean absolute difference between world and truth", this.gap, this.spark)));
    this.about.streams.forEach((stream, index) => {
      if (stream.kind === "image") {
        this.view(`w${index}`, "World", "world", stream);
        if (this.opened.truth) this.view(`t${index}`, "Truth", "truth", stream);
      } else {
        this.view(`v${index}`, this.opened.truth ? "World, and truth dashed" : "World", "plot", stream);
      }
    });
    if (this.about.map) this.memory(this.about.map);
    this.possible = this.about.sentences ?? [];
    this.said = element("p", { class: "said", hidden: true });
    if (this.about.action.kind === "text") this.holder.firstElementChild.append(this.said);
    this.node.toggleAttribute("data-watching", this.watching);
    new ResizeObserver(() => this.layout()).observe(this.holder);
  }

  view(key, label, kind, stream) {
    const canvas = element("canvas", { role: "img", "aria-label": `${label}${stream ? `, ${stream.name}` : ""}` });
    const figure = element("figure", { class: `view ${kind}` }, canvas, element("figcaption", {}, label));
    const aspect = kind === "plot" ? 1.5 : stream ? stream.shape[1] / stream.shape[0] : 1.5;
    const view = { canvas, figure, kind, aspect, film: new Film(), rows: stream && kind !== "plot" ? stream.shape[0] : 0 };
    this.views.set(key, view);
    this.holder.append(figure);
    return view;
  }

  /** Beside the world, the map that it remembers by; a line around what is in view. */
  memory(map) {
    const view = this.view("map", "Memory", "memory", { name: "a map of what the world remembers", shape: [map.height, map.width] });
    view.marker = outline(map);
    view.figure.title = "How much the world remembers of each place; the line goes around what is in view";
    view.figure.append(view.marker);
    this.holder.firstElementChild.after(view.figure);
  }

  /** Give the canvases the largest size that fits, side by side or one above the other; small frames by whole multiples
   *  of their pixels where that costs little. */
  layout() {
    const views = [...this.views.values()], gap = 10, caption = 24, n = views.length;
    const width = this.holder.clientWidth, height = this.holder.clientHeight;
    if (!width || !height || !n) return;
    const narrow = innerWidth <= 560; // there truth and memory are smaller companions
    for (const view of views) view.weight = narrow && n > 1 && (view.kind === "truth" || view.kind === "memory") ? 0.5 : 1;
    const wide = views.reduce((sum, v) => sum + v.aspect * v.weight, 0), tall = views.reduce((sum, v) => sum + 1 / v.aspect, 0);
    const across = Math.min((width - gap * (n - 1)) / wide, height - caption);
    const down = Math.min(width, (height - (caption + gap) * n) / tall); // as a width
    const stacked = !narrow && down * down * tall > across * across * wide;
    this.holder.dataset.stacked = stacked;
    const ratio = window.devicePixelRatio || 1;
    for (const view of views) {
      let h = Math.max(24, Math.floor(stacked ? down / view.aspect : across * view.weight));
      const times = view.rows && view.rows <= 128 ? Math.floor((h * ratio) / view.rows) : 0;
      const whole = (times * view.rows) / ratio;
      if (whole > 0.86 * h) h = whole;
      for (const { style } of [view.canvas, view.marker ?? view.canvas]) {
        style.height = `${h}px`;
        style.width = `${Math.round(h * view.aspect)}px`;
      }
      view.canvas.classList.toggle("crisp", view.rows > 0 && view.rows <= 128);
    }
    if (this.shown) this.plots(this.shown);
  }

  /** Take it off the page. */
  remove() {
    this.node.remove();
    for (const view of this.views.values()) view.film.close();
  }

  get now() { return this.frames.at(-1); }
  get oldest() { return Math.max(this.frames[0]?.frame ?? 0, this.now?.oldest ?? 0); }
  get frame() { return this.looking ?? this.now?.frame ?? 0; }

  /** Begin with the past of the pane this one was forked from. */
  inherit(parent, frame) {
    this.frames = parent.frames.filter((t) => t.frame < frame);
  }

  /** Take a frame: remember it, show it, say so. Resolves to how long its action waited, in ms, or null. */
  receive(tick) {
    if (tick.epoch !== this.epoch) {
      this.epoch = tick.epoch;
      this.looking = null;
    }
    const like = (part) => this.now?.parts.find((p) => p.truth === part.truth && p.stream === part.stream);
    for (const part of tick.parts) if (part.kind === H264_DELTA) part.before = like(part);
    while (this.frames.length && this.now.frame >= tick.frame) this.frames.pop();
    if (this.frames.length && this.now.frame !== tick.frame - 1) this.frames = []; // a hole cannot be looked at
    this.frames.push(tick);
    if (tick.possible) this.possible = tick.possible;
    if (this.frames.length > REMEMBER) this.frames.shift();
    const asked = this.running ? this.asked.get(tick.seq) : undefined;
    for (const seq of this.asked.keys()) if (seq <= tick.seq) this.asked.delete(seq);
    this.drawing = this.drawing.then(() => (this.looking === null ? this.show(tick) : null)).catch(() => null).then(() => {
      this.onShown(this, tick);
      return asked === undefined ? null : performance.now() - asked;
    });
    return this.drawing;
  }

  /** Look at an earlier frame, or at the present with null; nothing is asked of the server. */
  look(frame) {
    const tick = frame === null ? this.now : this.frames[frame - this.frames[0].frame];
    if (!tick) return;
    this.looking = tick === this.now ? null : tick.frame;
    this.drawing = this.drawing.then(() => this.show(tick)).catch(() => null);
  }

  async show(tick) {
    this.shown = tick;
    for (const part of tick.parts) {
      if (part.kind === VECTOR) continue;
      const key = { [PICTURE]: "picture", [MAP]: "map" }[part.stream] ?? `${part.truth ? "t" : "w"}${part.stream}`;
      let view = this.views.get(key);
      if (!view) {
        view = this.view(key, "Truth, rendered", "truth");
        view.aspect = part.width / part.height;
        this.layout();
      }
      await drawImage(view.canvas, part, view.film);
    }
    this.plots(tick);
    this.read(tick);
  }

  plots(tick) {
    const end = this.frames.indexOf(tick) + 1, past = this.frames.slice(Math.max(0, end - LONG), end);
    const span = Math.max(SHORT, past.length);
    this.about.streams.forEach((stream, index) => {
      const view = this.views.get(`v${index}`);
      if (!view) return;
      const side = (t, truth) => t.parts.find((p) => p.kind === VECTOR && p.stream === index && p.truth === truth)?.data ?? null;
      drawVector(view.canvas, past.map((t) => ({ world: side(t, false), truth: t.truth?.ended ? null : side(t, true) })), stream, span);
    });
    if (!this.opened.truth) return;
    const gaps = past.map((t) => t.truth?.gap ?? null);
    drawSpark(this.spark, gaps, Math.max(0.05, ...gaps.map((g) => g ?? 0)) * 1.1, span);
  }

  read(tick) {
    const number = (v) => (v === null ? "–" : Math.abs(v) >= 100 || Number.isInteger(v) ? v.toFixed(0) : v.toFixed(2));
    const both = (node, mine, theirs) => node.replaceChildren(element("b", {}, number(mine)), theirs === undefined ? "" : element("em", {}, number(theirs)));
    this.said.textContent = tick.said ?? "";
    this.said.hidden = !tick.said;
    both(this.reward, tick.reward, tick.truth?.reward);
    both(this.score, tick.score, tick.truth?.score);
    this.end.textContent = `${Math.round(tick.end * 100)} %`;
    this.endBar.style.width = `${Math.min(100, tick.end * 100)}%`;
    const image = this.about.streams.some((s) => s.kind === "image"), gap = tick.truth?.gap ?? null;
    this.gap.textContent = gap === null ? "–" : image ? `${(gap * 100).toFixed(1)} %` : gap.toPrecision(2);
    this.node.classList.toggle("truth-over", Boolean(tick.truth?.ended));
    this.label(tick);
  }

  /** Update the words that say what state this pane is in. */
  label(tick = this.shown) {
    const back = this.looking !== null;
    const state = back ? "looking back" : tick?.ended ? "the world says it is over" : tick?.truth?.ended ? "over in truth" : this.running ? (this.watching ? "watching" : "") : this.watching ? "watching, paused" : "paused";
    this.badge.textContent = state;
    this.badge.dataset.kind = back ? "back" : tick?.ended || tick?.truth?.ended ? "end" : "";
    this.hint.classList.toggle("on", this.waiting && !this.running && !back);
    this.node.toggleAttribute("data-running", this.running);
  }
}

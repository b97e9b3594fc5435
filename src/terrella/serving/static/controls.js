// What a person holds, as an action: chords of keys, buttons that stand for keys, and a control for every other space.

import { element } from "./card.js";

const LABELS = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "Space", Enter: "Enter", Escape: "Esc",
  ShiftLeft: "Shift", ShiftRight: "Shift", ControlLeft: "Ctrl", ControlRight: "Ctrl", Period: ".", Comma: ",", Slash: "/",
  Backspace: "Bksp", Tab: "Tab", Minus: "−", Equal: "=",
};
const PADS = [["ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"], ["KeyW", "KeyA", "KeyS", "KeyD"]];
const MOST = 24; // controls of one kind on the page; more would be no help

/** A key's short name for a cap. */
export const keyLabel = (code) => LABELS[code] ?? code.replace(/^(Key|Digit|Numpad)/, "");

/** The row of the longest chord that is held; among equals the one with the key pressed last. Null when none is. */
export function matchChord(chords, held) {
  let best = null, rank = [0, -1];
  for (const chord of chords) {
    if (!chord.codes.every((code) => held.includes(code))) continue;
    const last = Math.max(...chord.codes.map((code) => held.indexOf(code)));
    if (chord.codes.length > rank[0] || (chord.codes.length === rank[0] && last > rank[1])) {
      best = chord;
      rank = [chord.codes.length, last];
    }
  }
  return best;
}

/** UTF-8 bytes as a row of `n` numbers, padded with -1. */
export function textRow(text, n) {
  const bytes = [...new TextEncoder().encode(text)].slice(0, n);
  return [...bytes, ...Array(n - bytes.length).fill(-1)];
}

export class Controls {
  constructor(node, onChange) {
    this.node = node;
    this.onChange = onChange;
    this.held = [];
    this.chords = [];
  }

  /** Build the controls of a world. */
  show(about) {
    this.about = about;
    this.held = [];
    this.direct = null; // a row held by a button of its own
    this.base = null; // rows of sliders and the like, once touched
    this.text = null;
    this.hints = null;
    this.field = null;
    this.chords = Object.entries(about.keys ?? {}).map(([chord, row]) => ({ codes: chord.split("+"), row }));
    this.known = new Set(this.chords.flatMap((c) => c.codes));
    const parts = [this.pad(), this.keyButtons(), this.choices(), this.sheet()].filter(Boolean);
    this.node.replaceChildren(...(parts.length ? parts : [element("p", { class: "dim" }, "This world takes no actions that a page can give.")]));
  }

  /** Take no actions, and say why. */
  none(words) {
    this.show({ keys: {}, action: { kind: "discrete", n: 0, start: 0 }, action_names: [], noop: null });
    this.node.replaceChildren(element("p", { class: "dim" }, words));
  }

  owns(code) { return this.known?.has(code) ?? false; }

  press(code) {
    if (this.held.includes(code)) return;
    this.held.push(code);
    this.changed();
  }

  release(code) {
    if (!this.held.includes(code)) return;
    this.held = this.held.filter((c) => c !== code);
    this.changed();
  }

  clear() {
    this.held = [];
    this.direct = null;
    this.changed();
  }

  /** What is held now: {row}, {text} or {} for nothing. */
  current() {
    const chord = matchChord(this.chords, this.held);
    if (chord) return { row: chord.row };
    if (this.direct) return { row: this.direct };
    if (this.text !== null) return { text: this.text };
    return this.base ? { row: [...this.base] } : {};
  }

  /** Name of the action that a row stands for, where actions have names. */
  actionName(row) {
    const { action, action_names: names } = this.about;
    if (action.kind !== "discrete") return row.map((v) => (Number.isInteger(v) ? v : v.toFixed(2))).join(", ");
    return (names[row[0] - action.start] ?? `action ${row[0]}`).toLowerCase().replaceAll("_", " ");
  }

  /** Chords with their names, for the help. */
  legend() {
    return this.chords.map((c) => [c.codes.map(keyLabel), this.actionName(c.row)]);
  }

  changed(how) {
    for (const button of this.node.querySelectorAll("[data-codes]")) {
      button.toggleAttribute("data-down", button.dataset.codes.split(" ").every((c) => this.held.includes(c)));
    }
    this.onChange(how);
  }

  /** A button that is held with a pointer, or with Enter or Space. */
  holdButton(attributes, down, up, ...children) {
    const button = element("button", { type: "button", ...attributes }, ...children);
    let on = false;
    const start = () => { if (!on) { on = true; down(); } };
    const end = () => { if (on) { on = false; up(); } };
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      start();
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(name, end);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("keydown", (event) => {
      if (event.code !== "Enter" && event.code !== "Space") return;
      event.preventDefault();
      event.stopPropagation();
      start();
    });
    button.addEventListener("keyup", (event) => { if (event.code === "Enter" || event.code === "Space") { event.stopPropagation(); end(); } });
    return button;
  }

  codesButton(codes, name, ...children) {
    const attributes = { "data-codes": codes.join(" "), "aria-label": name, title: name };
    return this.holdButton(attributes, () => codes.forEach((c) => this.press(c)), () => codes.forEach((c) => this.release(c)), ...children);
  }

  pad() {
    this.padCodes = PADS.find((codes) => codes.some((code) => this.chords.some((c) => c.codes.length === 1 && c.codes[0] === code))) ?? [];
    if (!this.padCodes.length) return null;
    const [up, left, down, right] = this.padCodes;
    const rows = [
      [["↖", up, left], ["↑", up], ["↗", up, right]],
      [["←", left], null, ["→", right]],
      [["↙", down, left], ["↓", down], ["↘", down, right]],
    ];
    const cells = rows.map((row) => row.map((cell) => {
      const [arrow, ...codes] = cell ?? [""];
      const chord = this.chords.find((c) => c.codes.length === codes.length && codes.every((code) => c.codes.includes(code)));
      const face = chord && element("span", { class: codes.length > 1 ? "corner" : "", "aria-hidden": "true" }, arrow);
      return chord ? this.codesButton(codes, this.actionName(chord.row), face) : element("span");
    }));
    const used = cells.filter((row) => row.some((node) => node.tagName === "BUTTON"));
    return element("div", { class: "pad", role: "group", "aria-label": "Directions" }, ...used.flat());
  }

  keyButtons() {
    const single = this.chords.filter((c) => c.codes.length === 1 && !this.padCodes.includes(c.codes[0]));
    const onPad = this.chords.filter((c) => c.codes.every((code) => this.padCodes.includes(code)));
    const seen = new Set([...onPad.map((c) => String(c.row)), String(this.about.noop)]);
    const buttons = single.filter((c) => { const key = String(c.row); return !seen.has(key) && seen.add(key); }).slice(0, MOST)
      .map((c) => this.codesButton(c.codes, this.actionName(c.row), element("kbd", {}, keyLabel(c.codes[0])), this.actionName(c.row) === keyLabel(c.codes[0]).toLowerCase() ? null : element("span", {}, this.actionName(c.row))));
    return buttons.length ? element("div", { class: "chips", role: "group", "aria-label": "Actions" }, ...buttons) : null;
  }

  choices() {
    const { action } = this.about;
    if (action.kind !== "discrete") return null;
    const reached = new Set([...this.chords.map((c) => c.row[0]), this.about.noop?.[0]]);
    const rest = Array.from({ length: action.n }, (_, i) => action.start + i).filter((n) => !reached.has(n));
    if (!rest.length) return null;
    const buttons = rest.slice(0, MOST * 2).map((n) => this.holdButton({}, () => { this.direct = [n]; this.changed(); }, () => { this.direct = null; this.changed(); }, element("span", {}, this.actionName([n]))));
    const chips = element("div", { class: "chips", role: "group", "aria-label": "Actions without a key" }, ...buttons);
    return this.chords.length ? element("details", { class: "more" }, element("summary", {}, `${rest.length} more without a key`), chips) : chips;
  }

  /** Hold the sentence that was said last to whom is driven now, or none. */
  recall(sentence) {
    if (!this.field) return;
    this.text = sentence;
    this.field.value = sentence ?? "";
  }

  /** Offer sentences to say, as buttons below the field. */
  suggest(sentences) {
    const words = JSON.stringify(sentences);
    if (!this.hints || this.hints.dataset.words === words) return;
    this.hints.dataset.words = words;
    this.hints.replaceChildren(...sentences.slice(0, MOST).map((s) => element("button", { type: "button", onclick: () => this.say(s) }, s)));
  }

  /** Sliders, switches and fields for everything that is no single choice. */
  sheet() {
    const { action, noop } = this.about;
    if (action.kind === "discrete") return null;
    if (action.kind === "text") {
      const field = element("input", { type: "text", maxlength: action.n / 4, placeholder: "What should happen?", "aria-label": "Action in words", autocomplete: "off" });
      const form = element("form", { class: "words" }, field, element("button", { type: "submit", class: "text" }, "Say"));
      form.addEventListener("submit", (event) => { event.preventDefault(); this.text = field.value; this.changed({ said: true }); });
      this.field = field;
      this.say = (sentence) => { field.value = sentence; form.requestSubmit(); };
      this.hints = element("div", { class: "chips hints", role: "group", "aria-label": "Suggestions" });
      return element("div", { class: "sheet" }, form, this.hints);
    }
    const row = [], reset = [];
    const set = (at, value) => { this.base ??= [...row]; this.base[at] = value; this.changed(); };
    const nodes = this.leaf(action, "", row, set, reset);
    if (noop) noop.forEach((v, i) => { row[i] = v; });
    reset.forEach((f) => f(row));
    const release = element("button", { type: "button", class: "text small", onclick: () => { this.base = null; reset.forEach((f) => f(row)); this.changed(); } }, "Let go of all");
    return element("div", { class: "sheet" }, ...nodes, release);
  }

  leaf(spec, name, row, set, reset) {
    if (spec.kind === "tuple" || spec.kind === "dict") {
      return spec.children.map((child, i) => {
        const label = spec.kind === "dict" ? spec.keys[i] : String(i + 1);
        return element("fieldset", {}, element("legend", {}, label), ...this.leaf(child, label, row, set, reset));
      });
    }
    const at = row.length;
    if (spec.kind === "text") {
      row.push(...textRow("", spec.n));
      const field = element("input", { type: "text", "aria-label": name || "Text" });
      field.addEventListener("change", () => textRow(field.value, spec.n).forEach((v, i) => set(at + i, v)));
      return [field];
    }
    const size = spec.kind === "discrete" ? 1 : spec.shape.reduce((a, b) => a * b, 1);
    const nodes = [];
    for (let i = 0; i < size; i++) {
      const label = size > 1 || !name ? `${name || "action"} ${i + 1}` : name;
      const place = row.length;
      if (spec.kind === "box") {
        const low = spec.low[i] ?? -1, high = spec.high[i] ?? 1, whole = !spec.dtype.startsWith("float");
        row.push(Math.min(Math.max(0, low), high));
        if (i >= MOST) continue;
        const input = element("input", { type: "range", min: low, max: high, step: whole ? 1 : (high - low) / 200 });
        const shown = element("output");
        const show = () => { shown.textContent = whole ? input.value : Number(input.value).toFixed(2); };
        input.addEventListener("input", () => { show(); set(place, Math.min(Math.max(Number(input.value), low), high)); });
        reset.push((r) => { input.value = r[place]; show(); });
        nodes.push(element("label", { class: "dial" }, element("span", {}, label), input, shown));
      } else if (spec.kind === "multi_binary") {
        row.push(0);
        if (i >= MOST) continue;
        const input = element("input", { type: "checkbox", role: "switch" });
        input.addEventListener("change", () => set(place, Number(input.checked)));
        reset.push((r) => { input.checked = r[place] === 1; });
        nodes.push(element("label", { class: "switch" }, input, element("span", { class: "track", "aria-hidden": "true" }), element("span", {}, label)));
      } else {
        const start = spec.kind === "discrete" ? spec.start : 0, n = spec.kind === "discrete" ? spec.n : spec.nvec[i];
        row.push(start);
        if (i >= MOST) continue;
        const input = element("select", {}, ...Array.from({ length: n }, (_, v) => element("option", { value: start + v }, String(start + v))));
        input.addEventListener("change", () => set(place, Number(input.value)));
        reset.push((r) => { input.value = r[place]; });
        nodes.push(element("label", { class: "field" }, element("span", {}, label), input));
      }
    }
    return nodes;
  }
}

// The page: connects, opens sessions, and wires controls, keys, playback and readouts together.

import { showCard, element } from "./card.js";
import { Controls, keyLabel } from "./controls.js";
import { Link, MOVED } from "./link.js";
import { Pane } from "./pane.js";
import { FINAL, Retry } from "./retry.js";

const $ = (id) => document.getElementById(id);
const TOKEN = "terrella-token";
const linked = new URLSearchParams(location.hash.slice(1)); // `moment`: somebody's, to go on from; `watch`: a session to watch
const given = linked.get("watch") ? [{ watch: linked.get("watch") }] : linked.get("moment") ? [{ token: linked.get("moment") }] : [];
const state = { link: null, limits: null, panes: new Map(), focus: null, about: null, req: 0, times: [], waits: [], lates: [], crowd: null, lost: given, reopening: new Map(), holding: null };
const controls = new Controls($("controls"), act);
const retry = new Retry(connect);

// --- connection

function connect() {
  lamp("wait", retry.count ? "Reconnecting" : "Connecting");
  state.link = new Link({
    welcome(message) {
      state.limits = message.limits;
      lamp("on", "Connected");
      const wanted = new URLSearchParams(location.hash.slice(1));
      $("world").replaceChildren(...message.worlds.map((name) => element("option", {}, name)));
      $("world").value = message.worlds.includes(wanted.get("world")) ? wanted.get("world") : message.default;
      if (/^\d{1,9}$/.test(wanted.get("seed") ?? "")) $("seed").value = wanted.get("seed");
      if (state.lost.length) reopen();
      else begin();
    },
    opened: onOpened,
    shared: (message) => offer(message.token),
    status: onStatus,
    tick: onTick,
    closed: onClosed,
    error(message) {
      if (message.fatal) return;
      const { watch } = state.reopening.get(message.req) ?? {};
      if (watch) return awaitPlayer(watch, message.message);
      if (state.reopening.delete(message.req) && !state.reopening.size && !state.panes.size) begin();
      if (message.code === "UnknownName" || (message.req && !state.panes.size)) $("empty").textContent = message.message;
      toast(message.message);
    },
    lost: onLost,
  }, sessionStorage.getItem(TOKEN), state.lost[0]?.watch ?? state.lost[0]?.token);
}

function onLost(code, refusal) {
  const had = [...state.panes.values()].map((pane) => (pane.watching ? { watch: pane.opened.watch } : { token: pane.opened.token, running: pane.running, text: pane.text })).concat(...state.reopening.values());
  const lost = had.filter(({ token, watch }) => token || watch);
  state.lost = lost.length ? lost : state.lost;
  state.reopening.clear();
  clearPanes();
  if (code === MOVED) return connect();
  if (code === 4001) {
    retry.calm();
    lamp("off", "Not connected");
    sessionStorage.removeItem(TOKEN);
    $("ask-token").showModal();
    return;
  }
  const why = refusal?.message ?? "The server stopped, or could not be reached.";
  if (!FINAL.has(code)) return reconnect(why);
  retry.calm();
  lamp("off", "Not connected");
  $("empty").textContent = "Not connected.";
  $("lost-reason").textContent = why;
  if (!$("lost").open) $("lost").showModal();
}

function reconnect(why) {
  lamp("wait", "Reconnecting");
  const again = element("button", { type: "button", class: "text", id: "now", onclick: () => retry.now() }, "Try now");
  $("empty").replaceChildren(element("p", { id: "reconnecting" }, `${why} Reconnecting…`), again);
  retry.later();
}

/** Of a session that is watched: nobody plays it now. Who played it may come back, in a cluster on another server. */
function awaitPlayer(watch, why) {
  state.link.close();
  state.reopening.clear();
  clearPanes();
  state.lost = [{ watch }];
  reconnect(why);
}

const lamp = (kind, words) => { $("lamp").dataset.state = kind; $("lamp").setAttribute("aria-label", words); $("lamp").title = words; };

let fading = 0;
function toast(words) {
  $("toast").textContent = words;
  $("toast").classList.add("on");
  clearTimeout(fading);
  fading = setTimeout(() => $("toast").classList.remove("on"), 5000);
}

// --- sessions

/** Close everything and open the chosen world from the chosen seed. */
function begin() {
  for (const pane of state.panes.values()) state.link.send("close", { session: pane.session });
  clearPanes();
  $("empty").textContent = "Waking the world…";
  const world = $("world").value, seed = Math.min(Math.max(0, Math.trunc(Number($("seed").value) || 0)), 2 ** 31 - 1);
  history.replaceState(null, "", `#${new URLSearchParams({ world, seed })}`);
  const steps = Number($("steps").value) || null;
  state.link.send("open", { world, seed, truth: $("truth").checked, req: ++state.req, ...(steps && state.about?.name === world ? { steps } : {}) });
}

/** Go on with the sessions that a lost connection had, played or watched. */
function reopen() {
  for (const lost of state.lost) {
    state.reopening.set(++state.req, lost);
    state.link.send(lost.watch ? "watch" : "reopen", { token: lost.watch ?? lost.token, req: state.req });
  }
  state.lost = [];
}

function clearPanes() {
  for (const pane of state.panes.values()) pane.remove();
  state.panes.clear();
  state.focus = null;
  arrange();
}

function onOpened(message) {
  const lost = state.reopening.get(message.req);
  retry.calm();
  if (!state.reopening.delete(message.req) && message.parent === null && message.req !== state.req) {
    state.link.send("close", { session: message.session });
    return;
  }
  const pane = new Pane(message, { onFocus: focus, onClose: closePane, onShown: shown });
  const parent = state.panes.get(message.parent);
  pane.text = lost?.text ?? null;
  if (parent) pane.inherit(parent, Infinity);
  state.panes.set(message.session, pane);
  $("stage").append(pane.node);
  if (state.about?.name !== message.about.name || (message.parent === null && !lost)) { // else what is held stays held
    state.about = message.about;
    $("world").value = message.world;
    if (message.watching) controls.none("Somebody else plays; you watch. Choose a world to play yourself.");
    else controls.show(state.about);
    showCard($("card"), state.about, message);
    showSteps(state.about);
    if ($("truth").checked && !message.truth) toast("The true environment is not installed here; the world starts from a recording.");
  }
  focus(pane);
  arrange();
  if (lost?.running) start(pane); // with what is held, which `focus` has said
}

function onStatus(message) {
  const pane = state.panes.get(message.session);
  if (!pane) return;
  pane.running = message.running;
  pane.turns = message.turns;
  pane.watched.textContent = message.watched && !pane.watching ? `${message.watched} watching` : "";
  if (message.running) pane.waiting = false;
  if (message.turns && pane.waiting && !message.running) state.link.send("resume", { session: pane.session });
  if (pane === state.focus) {
    $("seed").value = message.seed;
    $("turns").checked = message.turns;
    $("stop").checked = message.stop_at_end;
    $("speed").value = message.fps;
    $("speed-value").textContent = `${Math.round(message.fps)} fps`;
  }
  pane.label();
  refresh();
}

async function onTick(tick) {
  const pane = state.panes.get(tick.session);
  if (!pane) return;
  const waited = await pane.receive(tick);
  if (waited !== null) state.waits = [...state.waits.slice(-29), waited];
  if (pane !== state.focus || !pane.running) return;
  state.times.push(performance.now());
  state.lates = [...state.lates.slice(-59), tick.late_ms];
  state.crowd = tick;
}

function shown(pane, tick) {
  state.link.send("ack", { session: pane.session, epoch: tick.epoch, frame: tick.frame });
  if (pane === state.focus) refresh();
}

function onClosed(message) {
  const pane = state.panes.get(message.session);
  if (!pane) return;
  if (message.reason && pane.watching) return awaitPlayer(pane.opened.watch, message.reason);
  if (message.reason) toast(message.reason);
  pane.remove();
  state.panes.delete(message.session);
  if (state.focus === pane) focus([...state.panes.values()].at(-1) ?? null);
  if (!state.panes.size) $("empty").textContent = message.reason || "No session is open. Begin again.";
  arrange();
}

const closePane = (pane) => state.link.send("close", { session: pane.session });

function focus(pane) {
  if (state.focus === pane) return;
  state.focus = pane;
  state.times = [];
  state.lates = [];
  for (const p of state.panes.values()) p.node.toggleAttribute("data-focus", p === pane);
  if (pane && targets().length === 1) controls.recall(pane.text);
  act({ begins: false });
  refresh();
}

function arrange() {
  const count = state.panes.size;
  $("stage").dataset.count = count;
  $("empty").hidden = count > 0;
  $("drive").disabled = count < 2;
  [...state.panes.values()].forEach((pane, i) => { pane.name.textContent = String(i + 1); pane.close.hidden = count < 2; });
  refresh();
}

/** The panes that keys and playback act on. */
function targets() {
  if (!state.focus || state.focus.watching) return [];
  return $("drive").querySelector(":checked").value === "all" ? [...state.panes.values()] : [state.focus];
}

// --- acting

/** Tell the panes that are driven what is held. `begins`: whether one that waits starts; `said`: a sentence was given. */
function act(how) {
  const begins = how?.begins ?? true, again = how?.said ?? false;
  const content = controls.current(), words = JSON.stringify(content), driven = new Set(targets());
  for (const pane of state.panes.values()) {
    if (!driven.has(pane) && pane.text !== null) continue; // a sentence holds until another one is said to this pane
    const mine = driven.has(pane) ? content : {}, said = driven.has(pane) ? words : "{}";
    if (said === pane.sent) {
      if (again && pane.waiting && !pane.running) start(pane);
      continue;
    }
    pane.text = mine.text ?? null;
    pane.sent = said;
    if (said !== "{}") {
      commit(pane);
      if (begins && pane.waiting && !pane.running) start(pane);
    }
    pane.asked.set(++pane.seq, performance.now());
    state.link.send("action", { session: pane.session, seq: pane.seq, ...mine });
  }
}

/** Make the frame looked back at the present; what came after it is gone. */
function commit(pane) {
  if (pane.looking === null) return;
  state.link.send("rewind", { session: pane.session, frame: pane.looking });
  pane.looking = null;
  pane.waiting = true;
}

function start(pane) {
  commit(pane);
  pane.waiting = false;
  pane.running = true;
  state.link.send("resume", { session: pane.session });
}

function stop(pane) {
  if (pane.watching) return;
  if (pane.running) state.link.send("pause", { session: pane.session });
  pane.running = false;
}

function playOrPause() {
  if (state.focus?.watching) { // back to the present
    state.focus.look(null);
    state.focus.label();
    return refresh();
  }
  const panes = targets();
  if (panes.some((p) => p.running)) panes.forEach(stop);
  else panes.forEach(start);
  panes.forEach((p) => { p.waiting = false; p.label(); });
  refresh();
}

function stepOnce() {
  for (const pane of targets()) {
    stop(pane);
    commit(pane);
    pane.waiting = false;
    state.link.send("step", { session: pane.session, n: 1 });
  }
}

function restart(seed) {
  for (const pane of targets()) {
    pane.waiting = true;
    stop(pane);
    state.link.send("reset", seed === undefined ? { session: pane.session } : { session: pane.session, seed });
  }
}

function fork() {
  const pane = state.focus;
  if (!pane || pane.watching) return;
  if (state.panes.size >= state.limits.panes) return toast(`${state.limits.panes} panes are the most; close one first.`);
  stop(pane);
  pane.waiting = true;
  state.link.send("fork", { session: pane.session, frame: pane.looking });
  pane.label();
}

function share() {
  const pane = state.focus;
  if (pane?.opened.token) state.link.send("fork", { session: pane.session, frame: pane.looking, share: true, req: ++state.req });
  else if (pane) offer(null);
}

/** Show the links to what is played: one to watch it, and one to a moment of it where there is a token for that. */
function offer(moment) {
  const link = (fields) => new URL(`#${new URLSearchParams(fields)}`, location.href).href;
  $("watch").value = link({ watch: state.focus?.opened.watch ?? "" });
  $("moment").value = moment ? link({ moment }) : "";
  $("go-on").hidden = !moment;
  $("shared").showModal();
  $(moment ? "moment" : "watch").select();
}

// --- looking back

function lookAt(frame) {
  const pane = state.focus;
  if (!pane?.now) return;
  stop(pane);
  pane.waiting = false;
  pane.look(Math.min(Math.max(frame, pane.oldest), pane.now.frame));
  pane.label();
  refresh();
}

/** Run backwards while held; on release go on from there if the session was running. */
function holdRewind(on) {
  if (!on) {
    if (!state.holding) return;
    clearInterval(state.holding.timer);
    const { pane, resume } = state.holding;
    state.holding = null;
    if (resume && state.panes.has(pane.session)) start(pane);
    refresh();
    return;
  }
  const pane = state.focus;
  if (state.holding || !pane?.now) return;
  const resume = pane.running && !pane.watching;
  lookAt(pane.frame - 1);
  const timer = setInterval(() => lookAt(pane.frame - 1), Math.max(20, 1000 / Number($("speed").value)));
  state.holding = { pane, resume, timer };
}

// --- readouts

function refresh() {
  controls.suggest(state.focus?.possible ?? []);
  const pane = state.focus, now = pane?.now?.frame ?? 0, watching = Boolean(pane?.watching);
  const busy = Boolean(pane?.running) && !(watching && pane.looking !== null);
  $("play").dataset.running = busy;
  $("play").title = busy ? "Pause" : "Play";
  $("play").setAttribute("aria-label", busy ? "Pause" : "Play");
  for (const id of ["step", "restart", "fork"]) $(id).disabled = !pane || watching;
  for (const id of ["speed", "turns", "stop", "steps"]) $(id).disabled = watching;
  $("play").disabled = !pane || (watching && pane.looking === null);
  $("rewind").disabled = $("share").disabled = !pane;
  $("sync").disabled = watching || !pane?.opened.truth || Boolean(pane.now?.truth?.ended) || pane.looking !== null;
  const time = $("time");
  time.disabled = !pane?.now || now === pane.oldest;
  time.min = pane?.now ? pane.oldest : 0;
  time.max = now;
  time.value = pane?.frame ?? 0;
  time.style.setProperty("--done", now > time.min ? `${((time.value - time.min) / (now - time.min)) * 100}%` : "0%");
  $("frame").textContent = pane?.frame ?? 0;
  $("last").textContent = now;
}

setInterval(() => {
  const now = performance.now();
  state.times = state.times.filter((t) => now - t < 1500);
  const rate = state.times.length > 2 ? ((state.times.length - 1) * 1000) / (state.times.at(-1) - state.times[0]) : null;
  $("fps").textContent = rate === null ? "–" : rate.toFixed(1);
  const sorted = [...state.waits].sort((a, b) => a - b);
  const late = [...state.lates].sort((a, b) => a - b);
  for (const node of document.querySelectorAll(".crowd")) node.hidden = !((state.crowd?.running ?? 0) > 1);
  $("together").textContent = state.crowd ? `${state.crowd.together} of ${state.crowd.running}` : "–";
  $("late").textContent = late.length ? Math.round(late[Math.floor(0.95 * (late.length - 1))]) : "–";
  $("latency").textContent = sorted.length ? Math.round(sorted[Math.floor(sorted.length / 2)]) : "–";
}, 250);

function showSteps(about) {
  const choices = about.step_choices ?? [];
  $("steps-field").hidden = choices.length < 2;
  $("steps").replaceChildren(...choices.map((n) => element("option", { value: n }, String(n))));
  if (about.steps) $("steps").value = about.steps;
}

// --- keys

const SHORTCUTS = [
  ["KeyP", "play or pause", playOrPause],
  ["Period", "one frame on", stepOnce],
  ["Backspace", "rewind, while held", () => holdRewind(true), () => holdRewind(false)],
  ["KeyR", "begin again", () => restart()],
  ["KeyF", "fork", fork],
  ["KeyT", "match the truth", () => !$("sync").disabled && $("sync").click()],
];
const free = () => SHORTCUTS.filter(([code]) => !controls.owns(code));
const typing = (target) => target instanceof HTMLElement && target.matches("input:not([type=checkbox]):not([type=radio]), select, textarea");
const pressing = (event) => event.target instanceof HTMLButtonElement && (event.code === "Space" || event.code === "Enter");

addEventListener("keydown", (event) => {
  if (typing(event.target) || pressing(event) || document.querySelector("dialog[open]") || event.ctrlKey && !controls.owns(event.code) || event.metaKey) return;
  if (controls.owns(event.code)) {
    event.preventDefault();
    if (!event.repeat) controls.press(event.code);
    return;
  }
  const digit = /^Digit([1-8])$/.exec(event.code);
  const pane = digit && [...state.panes.values()][digit[1] - 1];
  if (pane) return focus(pane);
  const shortcut = free().find(([code]) => code === event.code);
  if (event.key === "?") return openHelp();
  if (!shortcut) return;
  event.preventDefault();
  if (!event.repeat) shortcut[2]();
});
addEventListener("keyup", (event) => {
  if (controls.owns(event.code)) controls.release(event.code);
  SHORTCUTS.find(([code]) => code === event.code)?.[3]?.();
});
addEventListener("blur", () => { controls.clear(); holdRewind(false); });
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return;
  controls.clear();
  for (const pane of [...state.panes.values()].filter((p) => !p.watching)) { if (pane.running) pane.waiting = true; stop(pane); pane.label(); }
  refresh();
});
// A click leaves the keyboard with the world, unless it went into a field.
document.addEventListener("click", (event) => { if (event.detail > 0 && !typing(document.activeElement) && !document.querySelector("dialog[open]")) $("stage").focus({ preventScroll: true }); });
for (const id of ["time", "speed", "world", "steps"]) $(id).addEventListener("pointerup", () => id === "world" || id === "steps" || $("stage").focus({ preventScroll: true }));

function openHelp() {
  const row = (keys, words) => [element("dt", {}, ...keys.flatMap((k, i) => [i ? " + " : "", element("kbd", {}, k)])), element("dd", {}, words)];
  $("help-playback").replaceChildren(...free().flatMap(([code, words]) => row([keyLabel(code)], words)), ...row(["1"], "choose a pane, by its number"), ...row(["?"], "this help"));
  const legend = controls.legend?.() ?? [];
  $("help-world").replaceChildren(...(legend.length ? legend.slice(0, 30).flatMap(([keys, words]) => row(keys, words)) : [element("dd", {}, "No keys; use the controls on the page.")]));
  $("help").showModal();
}

// --- wiring

$("setup").addEventListener("submit", (event) => event.preventDefault());
$("world").addEventListener("change", () => { begin(); $("stage").focus({ preventScroll: true }); });
$("seed").addEventListener("change", () => { begin(); $("stage").focus({ preventScroll: true }); });
$("dice").addEventListener("click", () => { $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 100000; begin(); });
$("truth").addEventListener("change", begin);
$("play").addEventListener("click", playOrPause);
$("step").addEventListener("click", stepOnce);
$("restart").addEventListener("click", () => (state.panes.size ? restart() : begin()));
$("fork").addEventListener("click", fork);
$("share").addEventListener("click", share);
addEventListener("hashchange", () => location.reload()); // another link was pasted
$("sync").addEventListener("click", () => state.focus && state.link.send("sync", { session: state.focus.session }));
$("time").addEventListener("input", () => lookAt(Number($("time").value)));
$("rewind").addEventListener("pointerdown", (event) => { $("rewind").setPointerCapture(event.pointerId); holdRewind(true); });
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) $("rewind").addEventListener(name, () => holdRewind(false));
$("rewind").addEventListener("click", (event) => { if (event.detail === 0) lookAt((state.focus?.frame ?? 0) - 1); });
$("rewind").addEventListener("contextmenu", (event) => event.preventDefault());
$("speed").addEventListener("input", () => { $("speed-value").textContent = `${$("speed").value} fps`; });
$("speed").addEventListener("change", () => targets().forEach((p) => state.link.send("set", { session: p.session, fps: Number($("speed").value) })));
$("turns").addEventListener("change", () => targets().forEach((p) => state.link.send("set", { session: p.session, turns: $("turns").checked })));
$("stop").addEventListener("change", () => targets().forEach((p) => state.link.send("set", { session: p.session, stop_at_end: $("stop").checked })));
$("steps").addEventListener("change", () => targets().forEach((p) => state.link.send("set", { session: p.session, steps: Number($("steps").value) })));
$("drive").addEventListener("change", act);
$("help-open").addEventListener("click", openHelp);
$("token-form").addEventListener("submit", () => { sessionStorage.setItem(TOKEN, $("token").value); $("token").value = ""; connect(); });
$("lost").addEventListener("close", connect);

controls.none("");
refresh();
connect();

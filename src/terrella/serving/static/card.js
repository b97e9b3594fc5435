// The side panel: what a world is, how it was measured, and where it is known to fail. Text only, never markup.

const NAMES = { known_failures: "Known failures", env: "Environment", mse: "Error", mse_copy_last: "Copy last", action_ratio: "Wrong actions" };

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((c) => c != null));
  return node;
}

function title(name) {
  const words = (NAMES[name] ?? name).replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function plain(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return Math.abs(value) >= 1e5 ? `${(value / 1e6).toPrecision(3)} M` : value.toLocaleString("en");
  return Math.abs(value) >= 1e-3 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

function rows(entries) {
  return element("dl", { class: "facts" }, ...entries.flatMap(([k, v]) => [element("dt", {}, title(k)), element("dd", {}, plain(v))]));
}

const isPlain = (v) => v === null || ["string", "number", "boolean"].includes(typeof v);

function section(name, value, depth) {
  if (Array.isArray(value)) {
    if (value.every(isPlain)) return element("details", {}, element("summary", {}, title(name)), element("p", {}, value.map(plain).join(", ")));
    return element("details", {}, element("summary", {}, title(name)), ...value.slice(0, 20).map((v, i) => body(v, depth + 1, String(i + 1))));
  }
  return element("details", {}, element("summary", {}, title(name)), body(value, depth + 1));
}

function body(value, depth, name = "value") {
  if (isPlain(value)) return rows([[name, value]]);
  if (depth > 4) return element("p", { class: "dim" }, "…");
  const entries = Array.isArray(value) ? value.map((v, i) => [String(i + 1), v]) : Object.entries(value);
  const short = entries.filter(([, v]) => isPlain(v)), long = entries.filter(([, v]) => !isPlain(v));
  return element("div", { class: "inner" }, short.length ? rows(short) : null, ...long.map(([k, v]) => section(k, v, depth)));
}

const inline = (text) => text.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").replace(/[*`]{1,2}([^*`]+)[*`]{1,2}/g, "$1");

/** The headings, lists and paragraphs of a Markdown text as elements; tables and pictures are left out. */
function prose(markdown) {
  const parts = [];
  let list = null, marked = false, words = [];
  const flush = () => {
    if (words.length) parts.push(element("p", { class: marked ? "marked" : "" }, inline(words.join(" "))));
    words = [];
  };
  for (const line of markdown.replace(/^---[\s\S]*?\n---\n/, "").replace(/```[\s\S]*?```/g, "").split("\n")) {
    const heading = /^#{1,6}\s+(.*)/.exec(line), item = /^\s*[-*]\s+(.*)/.exec(line);
    if (heading || item || !line.trim()) flush();
    if (!item && (heading || !line.trim())) list = null;
    if (heading) {
      marked = /fail|limit|wrong|trust/i.test(heading[1]);
      parts.push(element("h3", { class: marked ? "marked" : "" }, inline(heading[1])));
    } else if (item) {
      if (!list) parts.push(list = element("ul", { class: marked ? "marked" : "" }));
      list.append(element("li", {}, inline(item[1])));
    } else if (list && line.trim()) {
      list.lastChild.append(` ${inline(line.trim())}`);
    } else if (line.trim() && !/^\s*[|!]/.test(line)) {
      words.push(line.trim());
    }
  }
  flush();
  return parts;
}

/** Columns of equal length as a table: what was measured at each horizon, say. */
function table(columns) {
  const names = columns.map(([name]) => element("th", { scope: "col" }, title(name)));
  const lines = columns[0][1].map((_, i) => element("tr", {}, ...columns.map(([, values]) => element("td", {}, plain(values[i])))));
  return element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {}, ...names)), element("tbody", {}, ...lines)));
}

/** Fill `node` with a world's card. */
export function showCard(node, about, opened) {
  const { known_failures: known, failures: seen, title: called, summary, description, ...rest } = about.card ?? {};
  const failures = [known ?? seen ?? []].flat().filter((f) => f !== "");
  const streams = about.streams.map((s) => `${s.name} ${s.shape.join("×")}`).join(", ");
  const facts = [["world", about.name], ["env", about.env || "not named"], ["observes", streams], ["parameters", about.parameters], ["starts from", opened.start === "environment" ? "the environment" : "a recording"]];
  const entries = Object.entries(rest), numbers = entries.filter(([, v]) => Array.isArray(v) && v.length > 1 && v.every((x) => typeof x === "number" || x === null));
  const columns = numbers.filter(([, v]) => v.length === numbers[0][1].length);
  const others = entries.filter(([name, v]) => !isPlain(v) && !(columns.length > 1 && columns.some(([n]) => n === name)));
  const said = called ?? summary ?? description;
  node.replaceChildren(...[
    said && element("p", {}, String(said)),
    rows([...facts, ...entries.filter(([, v]) => isPlain(v))]),
    failures.length
      ? element("div", { class: "failures" }, element("h3", {}, "Known failures"), element("ul", {}, ...failures.map((f) => element("li", {}, isPlain(f) ? plain(f) : JSON.stringify(f)))))
      : element("p", { class: "dim" }, "Its card lists no known failures. That means nobody has looked, not that there are none."),
    columns.length > 1 && table(columns),
    ...others.map(([k, v]) => section(k, v, 0)),
    about.card_text && element("details", {}, element("summary", {}, "The whole card"), element("div", { class: "prose" }, ...prose(about.card_text))),
  ].filter(Boolean));
}

// The side panel: what a world is, how it was measured, and where it is known to fail. Text only, never markup.

const NAMES = { known_failures: "Known failures", env: "Environment", fps: "Frames a second" };

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

/** Fill `node` with a world's card. */
export function showCard(node, about, opened) {
  const { known_failures: failures, summary, description, ...rest } = about.card ?? {};
  const streams = about.streams.map((s) => `${s.name} ${s.shape.join("×")}`).join(", ");
  const facts = [["world", about.name], ["env", about.env || "not named"], ["observes", streams], ["parameters", about.parameters], ["starts from", opened.start === "environment" ? "the environment" : "a recording"]];
  const said = summary ?? description;
  node.replaceChildren(
    said ? element("p", {}, String(said)) : "",
    rows(facts),
    failures?.length
      ? element("div", { class: "failures" }, element("h3", {}, "Known failures"), element("ul", {}, ...[failures].flat().map((f) => element("li", {}, isPlain(f) ? plain(f) : JSON.stringify(f)))))
      : element("p", { class: "dim" }, "Its card lists no known failures. That means nobody has looked, not that there are none."),
    ...Object.entries(rest).filter(([, v]) => !isPlain(v)).map(([k, v]) => section(k, v, 0)),
    Object.entries(rest).some(([, v]) => isPlain(v)) ? rows(Object.entries(rest).filter(([, v]) => isPlain(v))) : "",
  );
}

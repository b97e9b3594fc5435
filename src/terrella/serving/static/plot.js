// Canvas drawings: pictures, vector components over time, and the small line of the distance from the truth.

import { H264_DELTA, H264_KEY, JPEG, RAW, WEBP } from "./link.js";

const WORLD = "#f0b35a", TRUTH = "#6fc3ea", GRID = "#262b36", TEXT = "#98a1b2";

/** Draw a raw, JPEG, WebP or H.264 part into a canvas of the part's own size; `film` decodes what is H.264. */
export async function drawImage(canvas, part, film) {
  if (canvas.width !== part.width) canvas.width = part.width;
  if (canvas.height !== part.height) canvas.height = part.height;
  const context = canvas.getContext("2d");
  if (part.kind === RAW) {
    const image = context.createImageData(part.width, part.height), to = image.data, from = part.data;
    for (let i = 0, j = 0; j < from.length; i += 4, j += 3) {
      to[i] = from[j]; to[i + 1] = from[j + 1]; to[i + 2] = from[j + 2]; to[i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  } else if (part.kind === JPEG || part.kind === WEBP) {
    const type = part.kind === JPEG ? "image/jpeg" : "image/webp";
    const bitmap = await createImageBitmap(new Blob([part.data], { type }));
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
  } else if (part.kind === H264_KEY || part.kind === H264_DELTA) {
    const frame = await film.decode(part);
    context.drawImage(frame, 0, 0); // its sides are even; what is beyond the canvas falls away
    frame.close();
  }
}

/** Return a drawing to lay over a map of `height` x `width` cells: the line around what is in view, by its corners. */
export function outline({ height, width, outline: corners }) {
  const make = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(make("polygon", { points: corners.map((corner) => corner.join(",")).join(" ") }));
  return svg;
}

function fit(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width / ratio, height / ratio);
  return [context, width / ratio, height / ratio];
}

function line(context, points, color, width, dash = []) {
  context.beginPath();
  context.setLineDash(dash);
  let pen = false;
  for (const point of points) {
    if (point === null) { pen = false; continue; }
    pen ? context.lineTo(...point) : context.moveTo(...point);
    pen = true;
  }
  context.strokeStyle = color;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.stroke();
  context.setLineDash([]);
}

/**
 * Plot the components of a vector stream, one band each: the world solid, the truth dashed.
 * `rows` is a list of {world, truth} (Float32Array or null), oldest first; `spec` has the stream's `low` and `high`.
 */
export function drawVector(canvas, rows, spec, span) {
  const [context, width, height] = fit(canvas);
  const count = spec.shape[0], shown = Math.min(count, 12), gap = 6;
  const band = (height - gap * (shown - 1)) / shown, left = 46;
  context.font = "11px ui-monospace, monospace";
  context.textBaseline = "middle";
  for (let c = 0; c < shown; c++) {
    const values = rows.flatMap((r) => [r.world?.[c], r.truth?.[c]]).filter((v) => Number.isFinite(v));
    const bound = (side) => { const b = spec[side]?.[c]; return Number.isFinite(b) && Math.abs(b) < 1e6 ? b : null; };
    let low = bound("low") ?? Math.min(...values), high = bound("high") ?? Math.max(...values);
    if (!(high - low > 1e-6)) { low -= 1; high += 1; }
    const top = c * (band + gap);
    const x = (i) => left + (i / (span - 1)) * (width - left - 2);
    const y = (v) => top + band - 4 - ((v - low) / (high - low)) * (band - 8);
    context.fillStyle = "#10131a";
    context.fillRect(left, top, width - left, band);
    if (low < 0 && high > 0) line(context, [[left, y(0)], [width, y(0)]], GRID, 1);
    context.fillStyle = TEXT;
    context.textAlign = "left";
    context.fillText(`x${c}`, 0, top + band / 2 - (band > 34 ? 7 : 0));
    const now = rows.at(-1)?.world?.[c];
    if (band > 34 && Number.isFinite(now)) {
      context.fillStyle = WORLD;
      context.fillText(now.toFixed(2), 0, top + band / 2 + 8);
    }
    const points = (side) => rows.map((r, i) => (Number.isFinite(r[side]?.[c]) ? [x(i), y(r[side][c])] : null));
    line(context, points("truth"), TRUTH, 1.5, [4, 3]);
    line(context, points("world"), WORLD, 2);
  }
}

/** Draw values as a filled line from the left edge to the right, scaled to `top`; null leaves a hole. */
export function drawSpark(canvas, values, top, span) {
  const [context, width, height] = fit(canvas);
  const x = (i) => (i / (span - 1)) * width;
  const y = (v) => height - 1.5 - Math.min(v / top, 1) * (height - 3);
  line(context, values.map((v, i) => (v === null ? null : [x(i), y(v)])), "#e2818a", 1.5);
}

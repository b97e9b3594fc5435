// The socket: JSON out, frames in. Parts of a frame are gathered until the tick that closes it.

export const RAW = 0, JPEG = 1, WEBP = 2, H264_KEY = 3, H264_DELTA = 4, VECTOR = 5, TRUE = 4, PICTURE = 255, MAP = 254, MOVED = 4005;
const HEADER = 32, MAGIC = 0x31464d57; // "WMF1", little endian

// Other codecs cost the server something and save bytes, so not where server and browser are one machine. H.264 needs
// https and a browser that decodes it, whose decoder reads the rest from the stream; WebP is tried with one pixel.
export const VIDEO = { codec: "avc1.42c028", optimizeForLatency: true };
const HERE = /^(localhost|127\.|\[::1\])/.test(location.hostname);
const PIXEL = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==";
const tried = {
  h264: async () => (await VideoDecoder.isConfigSupported(VIDEO)).supported,
  webp: () => createImageBitmap(new Blob([Uint8Array.from(atob(PIXEL), (c) => c.charCodeAt(0))], { type: "image/webp" })),
};
const codecs = Promise.all((HERE ? [] : ["h264", "webp"]).map(async (name) => ((await tried[name]().catch(() => null)) ? [name] : [])))
  .then((names) => names.flat());

/** Read one binary message into {kind, session, truth, stream, width, height, data}; null when it is not a frame. */
export function readPart(buffer) {
  if (buffer.byteLength < HEADER) return null;
  const view = new DataView(buffer);
  const length = view.getUint32(28, true);
  if (view.getUint32(0, true) !== MAGIC || buffer.byteLength !== HEADER + length) return null;
  const flags = view.getUint16(6, true), kind = view.getUint8(4);
  const data = kind === VECTOR ? new Float32Array(buffer, HEADER, length / 4) : new Uint8Array(buffer, HEADER, length);
  return {
    kind, data,
    session: view.getUint8(5), truth: (flags & TRUE) !== 0, stream: flags >> 8,
    width: view.getUint16(24, true), height: view.getUint16(26, true),
  };
}

/**
 * A connection that calls `on[type](message)` for each message and `on.lost(code, reason)` once, at its end. It goes where
 * a cluster's gateway sends it; `resume` is the token of a session that is to be found there.
 */
export class Link {
  constructor(on, token, resume) {
    this.on = on;
    this.parts = new Map();
    this.refusal = null;
    this.hello = { protocol: 1, ...(token ? { token } : {}), ...(resume ? { resume } : {}) };
    const url = new URL("ws", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.search = url.hash = "";
    this.connect(url);
  }

  connect(url) {
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = async () => this.send("hello", { ...this.hello, codecs: await codecs });
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = (event) => this.on.lost(event.code, this.refusal);
  }

  send(type, body = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...body }));
  }

  receive(data) {
    if (typeof data !== "string") {
      const part = readPart(data);
      if (part === null) return;
      if (!this.parts.has(part.session)) this.parts.set(part.session, []);
      this.parts.get(part.session).push(part);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "moved") {
      this.close();
      if (message.url) this.connect(message.url);
      else this.on.lost(MOVED, null);
      return;
    }
    if (message.type === "tick") {
      message.parts = this.parts.get(message.session) ?? [];
      this.parts.delete(message.session);
    }
    if (message.type === "error" && message.fatal) this.refusal = message;
    this.on[message.type]?.(message);
  }

  close() {
    this.socket.onclose = this.socket.onmessage = null;
    this.socket.close();
  }
}

// One H.264 stream as pictures. Every delta knows the part before it, so any frame can be shown again, not only the next.

import { H264_KEY, VIDEO } from "./link.js";

const PATIENCE = 250; // ms until a decoder that holds a picture back is made to give it

export class Film {
  constructor() {
    this.decoder = null;
    this.last = null; // the part decoded last: a delta after it needs nothing more
    this.count = 0;
    this.settle = null;
    this.closed = false;
  }

  /** Decode a part into a VideoFrame, which is to be closed; one at a time. Rejects where frames are lacking or spoilt. */
  async decode(part) {
    const chain = [part];
    while (chain[0].kind !== H264_KEY && (chain[0].before !== this.last || !this.last)) {
      if (!chain[0].before) throw new Error("the key frame before this one is not here");
      chain.unshift(chain[0].before);
    }
    if (this.closed) throw new Error("the pane was closed");
    const decoder = (this.decoder ??= this.open());
    this.last = null;
    let settle = null;
    const picture = new Promise((resolve, reject) => (this.settle = settle = { resolve, reject }));
    for (const { kind, data } of chain) {
      this.count += 1;
      decoder.decode(new EncodedVideoChunk({ type: kind === H264_KEY ? "key" : "delta", timestamp: this.count, data }));
    }
    let flushed = false; // after which the next picture has to begin at a key frame
    const timer = setTimeout(() => {
      flushed = true;
      decoder.flush().catch(() => null).then(() => settle.reject(new Error("the decoder gave no picture")));
    }, PATIENCE);
    try {
      const frame = await picture;
      this.last = flushed ? null : part;
      return frame;
    } finally {
      clearTimeout(timer);
    }
  }

  open() {
    const decoder = new VideoDecoder({
      output: (frame) => (frame.timestamp === this.count ? this.settle.resolve(frame) : frame.close()),
      error: (error) => this.fail(error),
    });
    decoder.configure(VIDEO);
    return decoder;
  }

  /** The decoder is closed now; another one begins at a key frame. */
  fail(error) {
    this.decoder = this.last = null;
    this.settle?.reject(error);
  }

  close() {
    this.closed = true;
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.fail(new Error("the pane was closed"));
  }
}

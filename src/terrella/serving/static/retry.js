// When to try again after a connection was lost: soon at first, then ever less often, no two pages at the same moment.

const FIRST = 500, MOST = 15000; // milliseconds
export const FINAL = new Set([1008, 1009, 4002, 4004]); // close codes after which trying again makes nothing better

export class Retry {
  constructor(attempt) {
    this.attempt = attempt;
    this.calm();
    addEventListener("online", () => this.now());
    document.addEventListener("visibilitychange", () => !document.hidden && this.now());
  }

  /** Try again after a while: twice as long each time, between half of that and all of it. */
  later() {
    clearTimeout(this.timer);
    const wait = Math.min(MOST, FIRST * 2 ** this.count++);
    this.timer = setTimeout(() => this.now(), wait * (0.5 + Math.random() / 2));
  }

  /** Not at the end of the wait but at once; nothing where no attempt waits. */
  now() {
    if (this.timer === null) return;
    clearTimeout(this.timer);
    this.timer = null;
    this.attempt();
  }

  /** All is well: the next loss begins with short waits. */
  calm() {
    clearTimeout(this.timer);
    this.timer = null;
    this.count = 0;
  }
}

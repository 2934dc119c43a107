/** Scripted stand-ins for what a session is made of: no network, no sound card, a clock that tests move. */

import { after } from "node:test";

export class FakeClock {
  ms = 1000;
  now = () => this.ms;
  advance(ms) {
    this.ms += ms;
  }
}

export class FakeSocket {
  sent = [];
  isOpen = false;
  bufferedAmount = 0;

  constructor(url, handlers, { openError = null } = {}) {
    this.url = url;
    this.handlers = handlers;
    this.openError = openError;
    this.wasClosed = false;
  }

  async open() {
    if (this.openError) throw this.openError;
    this.isOpen = true;
  }

  send(message) {
    if (!this.isOpen) return false;
    this.sent.push(message);
    return true;
  }

  close() {
    this.isOpen = false;
    this.wasClosed = true;
  }

  says(message) {
    this.handlers.onMessage(message, JSON.stringify(message).length);
  }

  drops(code = 1006) {
    this.isOpen = false;
    this.handlers.onClose({ code, reason: "" });
  }

  sentTypes() {
    return this.sent.map(({ type }) => type);
  }
}

export class FakeCapture extends EventTarget {
  openError = null;
  chunkMs = null;
  isClosed = false;
  async open() {
    if (this.openError) throw this.openError;
  }
  start(chunkMs) {
    this.chunkMs = chunkMs;
  }
  stop() {
    this.chunkMs = null;
  }
  close() {
    this.isClosed = true;
  }
  gives(samples) {
    this.dispatchEvent(new CustomEvent("chunk", { detail: samples }));
  }
  hears(rms, ms = 20, times = 1) {
    for (let i = 0; i < times; i += 1) {
      this.dispatchEvent(new CustomEvent("level", { detail: { rms, peak: rms, ms } }));
    }
  }
}

export class FakePlayer extends EventTarget {
  pushed = 0;
  cuts = 0;
  ends = 0;
  isHeld = false;
  isPlaying = false;
  async open() {}
  play(samples) {
    this.pushed += samples.length;
    this.isPlaying = true;
  }
  endTurn() {
    this.ends += 1;
  }
  cut() {
    this.cuts += 1;
    this.isPlaying = false;
  }
  hold(isHeld) {
    this.isHeld = isHeld;
  }
  close() {}
  playsTo(position, state = "playing") {
    this.dispatchEvent(new CustomEvent("stats", { detail: { position, state, peak: 0.1 } }));
  }
  says(type) {
    this.dispatchEvent(new Event(type));
  }
}

export class FakeCamera {
  isOpen = false;
  openError = null;
  asked = [];
  /** What grab() gives: a frame, null, or a promise of one. */
  gives = (maxSlices) => ({ base64: `picture-${this.asked.length}`, bytes: 1000 * maxSlices, width: 597, height: 336 });
  async open() {
    if (this.openError) throw this.openError;
    this.isOpen = true;
  }
  async grab(maxSlices) {
    this.asked.push(maxSlices);
    return this.gives(maxSlices);
  }
}

/** @type {any[]} */
const sessions = [];
// A session left in mid-start holds a timer of a minute, and with it the whole run.
after(() => sessions.forEach((session) => session.isOver || session.state === "idle" || session.fail(new Error("end of tests"))));

/** A session of *Kind* with its fakes; illegal transitions throw. */
export function makeSession(Kind, { openError = null, serverUp = true, camera = null } = {}) {
  const world = { clock: new FakeClock(), capture: new FakeCapture(), player: new FakePlayer(), socket: null, seen: [] };
  const session = new Kind(
    {
      makeSocket: (url, handlers) => (world.socket = new FakeSocket(url, handlers, { openError })),
      capture: world.capture,
      player: world.player,
      now: world.clock.now,
      isServerUp: async () => serverUp,
      camera,
    },
    { strict: true },
  );
  sessions.push(session);
  for (const type of ["state", "phase", "caption", "user", "user_turn", "queue", "warning", "marker"]) {
    session.addEventListener(type, ({ detail }) => world.seen.push([type, detail]));
  }
  world.states = () => world.seen.filter(([type]) => type === "state").map(([, detail]) => detail.state);
  world.of = (wanted) => world.seen.filter(([type]) => type === wanted).map(([, detail]) => detail);
  return { session, ...world, world, get socket() { return world.socket; } };
}

/** Start and lead to live. */
export async function goLive(made, { options = {}, prepared = {} } = {}) {
  await made.session.start(options);
  made.socket.says({ type: "queue_done" });
  made.socket.says({ type: "prepared", prompt_length: 1, ...prepared });
}

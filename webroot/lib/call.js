/** What a call hears and speaks with, and the socket that carries it; loaded when the first call begins. */

import { isServerUp } from "./api.js";
import { Capture } from "./audio/capture.js";
import { Player } from "./audio/player.js";
import { JsonSocket } from "./ws.js";

/** @typedef {ReturnType<typeof makeParts>} CallParts */

/** The parts of all calls of one page: microphone and player outlive a session. */
export function makeParts() {
  return {
    capture: new Capture(),
    player: new Player(),
    makeSocket: (/** @type {string} */ url, /** @type {import("./ws.js").SocketHandlers} */ handlers) => new JsonSocket(url, handlers),
    now: () => performance.timeOrigin + performance.now(),
    isServerUp,
  };
}

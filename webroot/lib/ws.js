/** A WebSocket that carries JSON objects and turns every kind of failure into a SessionError. */

import { SessionError } from "./errors.js";

/** Longest wait for the handshake, ms. */
const OPEN_TIMEOUT_MS = 10000;

/**
 * @typedef {object} SocketHandlers
 * @property {(message: any, numChars: number) => void} onMessage one parsed JSON object, and the length of its text
 * @property {(close: {code: number, reason: string}) => void} onClose once, after a successful open
 * @property {(error: SessionError) => void} [onBadMessage] a frame that was no JSON object
 */

export class JsonSocket {
  /** @type {WebSocket|null} */ #socket = null;
  /** @type {string} */ #url;
  /** @type {SocketHandlers} */ #handlers;

  /**
   * @param {string} url absolute, or a path on this server
   * @param {SocketHandlers} handlers
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  /** Bytes accepted by send() that have not left yet. */
  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  get isOpen() {
    return this.#socket?.readyState === 1;
  }

  /**
   * Resolve when the handshake is done.
   * Raises: SessionError `unreachable` (refused, no network) or `timeout`.
   * @returns {Promise<void>}
   */
  open() {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(absoluteUrl(this.#url));
      this.#socket = socket;
      let opened = false;
      const timer = setTimeout(() => {
        reject(new SessionError("timeout", "the handshake took too long"));
        socket.close();
      }, OPEN_TIMEOUT_MS);
      socket.onopen = () => {
        opened = true;
        clearTimeout(timer);
        resolve();
      };
      socket.onmessage = (event) => this.#receive(event.data);
      socket.onclose = (event) => {
        clearTimeout(timer);
        if (opened) this.#handlers.onClose({ code: event.code, reason: event.reason });
        else reject(new SessionError("unreachable", `handshake failed, close code ${event.code}`));
      };
    });
  }

  /**
   * Send one object; false when the socket is not open.
   * @param {object} message
   */
  send(message) {
    if (!this.isOpen) return false;
    /** @type {WebSocket} */ (this.#socket).send(JSON.stringify(message));
    return true;
  }

  close() {
    this.#socket?.close(1000);
  }

  /** @param {unknown} data */
  #receive(data) {
    /** @type {any} */ let message = null;
    try {
      message = typeof data === "string" ? JSON.parse(data) : null;
    } catch {
      message = null;
    }
    if (message !== null && typeof message === "object") this.#handlers.onMessage(message, /** @type {string} */ (data).length);
    else this.#handlers.onBadMessage?.(new SessionError("bad_message", String(data).slice(0, 80)));
  }
}

/** @param {string} url */
function absoluteUrl(url) {
  if (/^wss?:/.test(url)) return url;
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${url}`;
}

/** Errors a page can explain: a code that i18n has words for, and whether trying again makes sense. */

/** @typedef {"unreachable"|"refused"|"lost"|"timeout"|"queue_full"|"no_worker"|"not_ready"|"worker_lost"
 *   |"disabled"|"server"|"bad_message"|"mic_denied"|"mic_missing"|"mic_busy"|"cam_denied"|"cam_missing"
 *   |"cam_busy"|"insecure"|"unsupported"
 *   |"pause_timeout"|"session_timeout"|"unknown"} ErrorCode */

const NOT_RETRYABLE = new Set(["disabled", "insecure", "unsupported"]);

export class SessionError extends Error {
  /**
   * @param {ErrorCode} code
   * @param {string} [detail] technical words, shown folded
   */
  constructor(code, detail = "") {
    super(detail ? `${code}: ${detail}` : code);
    this.name = "SessionError";
    this.code = code;
    this.detail = detail;
    this.retryable = !NOT_RETRYABLE.has(code);
  }

  /** The SessionError for anything caught. @param {unknown} cause */
  static from(cause) {
    if (cause instanceof SessionError) return cause;
    return new SessionError("unknown", cause instanceof Error ? cause.message : String(cause));
  }
}

/** @type {[RegExp, ErrorCode][]} */
const SERVER_TEXTS = [
  [/queue full/i, "queue_full"],
  [/no worker/i, "no_worker"],
  [/not ready/i, "not_ready"],
  [/worker lost/i, "worker_lost"],
  [/disabled/i, "disabled"],
];

/**
 * The error the server meant by its text.
 * @param {string} text
 */
export function errorFromServer(text) {
  const known = SERVER_TEXTS.find(([pattern]) => pattern.test(text));
  return new SessionError(known ? known[1] : "server", text);
}

const MEDIA_ERRORS = /** @type {const} */ ({
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "busy",
  AbortError: "busy",
});

/**
 * The error behind a refused or absent microphone or camera.
 * @param {any} cause a DOMException of getUserMedia
 * @param {"mic"|"cam"} device
 */
export function errorFromMedia(cause, device) {
  const what = MEDIA_ERRORS[/** @type {keyof typeof MEDIA_ERRORS} */ (cause?.name)];
  return what ? new SessionError(`${device}_${what}`, cause.message) : SessionError.from(cause);
}

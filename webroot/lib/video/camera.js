/** The camera: permission, device, front or back; its picture in a <video>, and frames of it as JPEG. */

import { encodeBytes } from "../audio/pcm.js";
import { SessionError, errorFromMedia } from "../errors.js";
import { frameSize } from "./frame.js";

const JPEG_QUALITY = 0.8;
/** HAVE_CURRENT_DATA of a media element: there is a picture to take. */
const HAS_PICTURE = 2;

/**
 * @typedef {object} CameraOptions
 * @property {string} [cameraId] "" is the system default, or the side that `cameraFacing` names
 * @property {"user"|"environment"} [cameraFacing] which of a phone's two sides
 */

/** @typedef {{base64: string, bytes: number, width: number, height: number}} Frame */

/** Events: `open` (another picture is shown), `lost` (the device went away), `closed`. */
export class Camera extends EventTarget {
  #video;
  /** @type {MediaStream|null} */ #stream = null;
  /** @type {OffscreenCanvas|null} */ #canvas = null;
  /** Counts open() and close(): a picture that was asked for meanwhile is let go again. */
  #turn = 0;
  /** No frames while nobody looks at the page: browsers may give old ones. */
  isPaused = false;

  /** @param {HTMLVideoElement} video shows the picture */
  constructor(video) {
    super();
    this.#video = video;
  }

  get isOpen() {
    return this.#stream !== null;
  }

  /** True when the picture is that of whoever holds the device: such a picture people expect mirrored. */
  get looksAtUser() {
    return this.#track?.getSettings().facingMode !== "environment";
  }

  /** The device in use; "" when closed. */
  get deviceId() {
    return this.#track?.getSettings().deviceId ?? "";
  }

  get #track() {
    return this.#stream?.getVideoTracks()[0];
  }

  /**
   * Ask for the camera and show its picture; another one is closed before, as phones open one at a time. Closed
   * meanwhile, it stays closed.
   * Raises: SessionError `insecure`, `unsupported` or `cam_*`.
   * @param {CameraOptions} options
   */
  async open(options) {
    if (!globalThis.isSecureContext) throw new SessionError("insecure");
    if (!navigator.mediaDevices?.getUserMedia || !globalThis.OffscreenCanvas) throw new SessionError("unsupported");
    this.close();
    const turn = this.#turn;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: constraints(options) });
      if (turn !== this.#turn) return stream.getTracks().forEach((track) => track.stop());
      await this.#show(stream);
    } catch (cause) {
      if (turn !== this.#turn) return;
      this.close();
      throw errorFromMedia(cause, "cam");
    }
  }

  /**
   * The picture of this moment as the model wants it; null while there is none.
   * @param {number} maxSlices
   * @returns {Promise<Frame|null>}
   */
  async grab(maxSlices) {
    const { videoWidth, videoHeight, readyState } = this.#video;
    if (!this.isOpen || this.isPaused || this.#track?.muted || readyState < HAS_PICTURE || !videoWidth) return null;
    const { width, height } = frameSize(videoWidth, videoHeight, maxSlices);
    const canvas = (this.#canvas ??= new OffscreenCanvas(width, height));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#video, 0, 0, width, height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
    const bytes = new Uint8Array(await blob.arrayBuffer());
    return { base64: encodeBytes(bytes), bytes: bytes.length, width, height };
  }

  close() {
    this.#turn += 1;
    if (!this.#stream) return;
    this.#stream.getTracks().forEach((track) => {
      track.onended = null;
      track.stop();
    });
    this.#stream = null;
    this.#video.srcObject = null;
    this.dispatchEvent(new Event("closed"));
  }

  /** @param {MediaStream} stream */
  async #show(stream) {
    this.#stream = stream;
    stream.getVideoTracks()[0].onended = () => {
      this.close();
      this.dispatchEvent(new Event("lost"));
    };
    this.#video.srcObject = stream;
    // Where playing has to wait for a touch, the picture comes with the touch that starts the call.
    await this.#video.play().catch(() => undefined);
    if (stream === this.#stream) this.dispatchEvent(new Event("open"));
  }
}

/** @param {CameraOptions} options @returns {MediaTrackConstraints} */
function constraints({ cameraId = "", cameraFacing = "user" }) {
  const which = cameraId ? { deviceId: { exact: cameraId } } : { facingMode: { ideal: cameraFacing } };
  return { ...which, width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 24, max: 30 } };
}

/** The size at which the model looks at a picture: sending more would cost the uplink and change nothing. */

/** Side of the square whose area one slice has, px. Source: `slice_config.scale_resolution` of MiniCPM-o 4.5. */
export const SLICE_PX = 448;
/** Slices of a picture with HD off and on: 64 and 192 vision tokens, as the overview counts too. */
export const PLAIN_SLICES = 1;
export const HD_SLICES = 2;

/**
 * Width and height of the picture to send: as many pixels as *maxSlices* slices have, the camera's proportions, and
 * never more than the camera gave.
 * @param {number} width @param {number} height @param {number} maxSlices
 */
export function frameSize(width, height, maxSlices) {
  const scale = Math.min(1, Math.sqrt((SLICE_PX * SLICE_PX * maxSlices) / (width * height)));
  return { width: Math.max(1, Math.floor(width * scale)), height: Math.max(1, Math.floor(height * scale)) };
}

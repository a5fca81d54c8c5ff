/** [rows, cols] row-major → [cols, rows], into `into` (same length; not the same array). */
export const transpose = <T extends Uint8Array | Float32Array>(from: T, rows: number, cols: number, into: T): T => {
  for (let row = 0; row < rows; row++) {
    for (let col = 0, at = row * cols; col < cols; col++) into[col * rows + row] = from[at + col]
  }
  return into
}

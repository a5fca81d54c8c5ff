/** How one group of weights becomes parameters and codes, whatever the grid. Every operation is rounded to float32; the kernels do the same ones. */

/** Parameters of one group: `offset` is the zero point of an affine grid, the bias of a biased one, 0 for levels. */
export interface Parameters {
  readonly scale: number
  readonly offset: number
}

/** Lowest and highest weight. */
export interface Range {
  readonly low: number
  readonly high: number
}

export interface Coder {
  /** Whether ranges are held around 0, so that a zero weight stays zero. */
  readonly aroundZero: boolean
  /** Parameters for weights in a range, exact in their storage. A group of zeros has a scale that one can divide by. */
  parameters(range: Range): Parameters
  /** The nearest code. */
  encode(weight: number, parameters: Parameters): number
  decode(code: number, parameters: Parameters): number
  /** Weight minus decoded, in units of the scale, by the scale's reciprocal (codes themselves divide; the two differ at ties, where the error does not). */
  residual(weight: number, parameters: Parameters, inverse: number): number
}

export const rangeOf = (weights: Iterable<number>, aroundZero = true): Range => {
  let low = aroundZero ? 0 : Number.POSITIVE_INFINITY
  let high = aroundZero ? 0 : Number.NEGATIVE_INFINITY
  for (const weight of weights) {
    if (weight < low) low = weight
    if (weight > high) high = weight
  }
  return { low, high }
}

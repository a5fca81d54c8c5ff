/** How many binary digits of an exponent count: the result is then exact to float32. */
const digits = 30

/**
 * x^r by square roots alone: Π x^(2^−i) over the binary digits of r. Math.pow differs between versions of V8 in its last bits, and what
 * is computed here ends in a file.
 * @param x positive
 * @param r 0 … 1
 */
export const power = (x: number, r: number): number => {
  if (r >= 1) return x
  let [result, root, rest] = [1, x, r]
  for (let i = 0; i < digits && rest > 0; i++) {
    root = Math.sqrt(root)
    rest *= 2
    if (rest >= 1) {
      result *= root
      rest -= 1
    }
  }
  return result
}

const code = (character: string): number => character.charCodeAt(0)
const backslash = code('\\')
const letterU = code('u')

/** The byte that stands for each one-letter escape. */
const shortEscapes: ReadonlyMap<number, number> = new Map(
  [
    ['"', '"'],
    ['\\', '\\'],
    ['/', '/'],
    ['b', '\b'],
    ['f', '\f'],
    ['n', '\n'],
    ['r', '\r'],
    ['t', '\t'],
  ].map(([letter, meaning]) => [code(letter), code(meaning)]),
)

/** Value of a hexadecimal digit, or NaN. */
const hexDigit = (byte: number): number => {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  const letter = byte | 0x20
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : Number.NaN
}

const hex4 = (bytes: Uint8Array, at: number): number => {
  let value = 0
  for (let i = at; i < at + 4; i++) value = value * 16 + hexDigit(bytes[i])
  return value
}

/** Writes a code point as UTF-8; returns the place behind it. */
const putUtf8 = (out: Uint8Array, at: number, point: number): number => {
  if (point < 0x80) {
    out[at] = point
    return at + 1
  }
  const more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3
  out[at] = ((0xf00 >> (more + 1)) & 0xff) | (point >> (6 * more))
  for (let i = 1; i <= more; i++) out[at + i] = 0x80 | ((point >> (6 * (more - i))) & 0x3f)
  return at + more + 1
}

/** The code point of the `\u` escape (or pair) whose first digit is at `at`, and the place behind it. */
const unicodeEscape = (bytes: Uint8Array, at: number, fail: (problem: string) => never): [number, number] => {
  const high = hex4(bytes, at)
  if (Number.isNaN(high)) return fail('an unknown escape in a string')
  if (high < 0xd800 || high > 0xdfff) return [high, at + 4]
  const paired = high < 0xdc00 && bytes[at + 4] === backslash && bytes[at + 5] === letterU
  const low = paired ? hex4(bytes, at + 6) : 0
  if (!(low >= 0xdc00 && low <= 0xdfff)) return fail('a lone surrogate in a string')
  return [0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), at + 10]
}

/**
 * The text of a JSON string, given its UTF-8 bytes between the quotes. Byte by byte into one buffer that is no longer than
 * they are: a header of a hundred megabytes of escapes costs no more than one of plain text.
 */
export const unescapeJson = (bytes: Uint8Array, fail: (problem: string) => never): string => {
  const out = Buffer.alloc(bytes.length)
  let length = 0
  for (let i = 0; i < bytes.length; ) {
    const byte = bytes[i++]
    if (byte !== backslash) {
      out[length++] = byte
      continue
    }
    const letter = bytes[i++]
    if (letter === letterU) {
      const [point, next] = unicodeEscape(bytes, i, fail)
      length = putUtf8(out, length, point)
      i = next
    } else out[length++] = shortEscapes.get(letter) ?? fail('an unknown escape in a string')
  }
  return out.toString('utf8', 0, length)
}

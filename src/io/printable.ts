const maxShown = 320 // characters; a name in an error stays on one line of a terminal's scroll, whatever the file claims

/** Control and format characters, line separators and lone surrogates: what could break a line or drive a terminal. */
const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Surrogate}]/gu

const escaped = (character: string): string => `\\u{${character.codePointAt(0)!.toString(16)}}`

/** A name or path that came from outside, safe inside a one-line message: escaped, and cut when it is long. */
export const printable = (text: string): string => {
  const shown = text.length > maxShown ? `${text.slice(0, maxShown)}…` : text
  return shown.replace(unprintable, escaped)
}

/** Control and format characters, line separators, lone surrogates: what could break a line or drive a terminal. */
const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Surrogate}]/gu

/** Text that may hold names from files, made safe for a terminal: such characters are shown, not obeyed; one line. */
export const oneLine = (text: string): string =>
  cut(joined(text)).replace(unprintable, character => `\\u{${character.codePointAt(0)!.toString(16)}}`)

const maxShown = 4000 // characters; a tensor's name alone may have 65 536

const cut = (text: string): string => (text.length > maxShown ? `${text.slice(0, maxShown)}…` : text)

/** Its lines in one, without the space around the breaks. Not by a pattern: one that looks for space before a break is quadratic in it. */
const joined = (text: string): string => {
  if (!text.includes('\n')) return text
  const lines = text.split('\n').map(line => line.trim())
  return lines.filter(line => line !== '').join(' ')
}

/** A duration for people: `8 s`, `3 min 20 s`, `2 h 05 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
}

/** Control and format characters, line separators, lone surrogates: what could break a line or drive a terminal. */
const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Surrogate}]/gu

/** Text that may hold names from files, made safe for a terminal: such characters are shown, not obeyed; one line. */
export const oneLine = (text: string): string =>
  text.replace(/\s*\r?\n\s*/g, ' ').replace(unprintable, character => `\\u{${character.codePointAt(0)!.toString(16)}}`)

/** A duration for people: `8 s`, `3 min 20 s`, `2 h 05 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
}

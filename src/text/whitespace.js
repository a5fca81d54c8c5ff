/**
 * `\s` of a pattern in tokenizer.json means Unicode's White_Space. JavaScript's `\s` is another set: it holds U+FEFF and lacks U+0085.
 * The library compiles the patterns as JavaScript; here they are given the set that is meant. Plain JavaScript: the worker reads it.
 */
const inside = '\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const outside =
  '\\0-\\x08\\x0e-\\x1f!-\\x84\\x86-\\x9f\\xa1-\\u167f\\u1681-\\u1fff\\u200b-\\u2027\\u202a-\\u202e\\u2030-\\u205e\\u2060-\\u2fff\\u3001-\\u{10ffff}'

/** Rewrites `\s` and `\S` of a JavaScript pattern with the flag `u`, within character classes and outside. */
export function withUnicodeWhitespace(pattern) {
  let inClass = false
  const source = pattern.source.replace(/\\.|[[\]]/gsu, part => {
    if (part === '[') inClass = true
    else if (part === ']') inClass = false
    else if (part === '\\s') return inClass ? inside : `[${inside}]`
    else if (part === '\\S') return inClass ? outside : `[${outside}]`
    return part
  })
  return new RegExp(source, pattern.flags)
}

/** Amends the patterns of a pre-tokenizer of the library in place, and of those that it is a sequence of. */
export function useUnicodeWhitespace(node) {
  if (node === null || (typeof node !== 'object' && typeof node !== 'function')) return
  if (node.pattern instanceof RegExp) node.pattern = withUnicodeWhitespace(node.pattern)
  if (Array.isArray(node.tokenizers)) for (const child of node.tokenizers) useUnicodeWhitespace(child)
}

/**
 * Where a long text may be cut so that the ids of the pieces, in a row, are the ids of the whole text. A tokenizer keeps several objects
 * for each token (and one that has no pre-tokenizer sorts the whole text as one word), so pieces bound memory and save time:
 * 1.3 MB of English on a Llama 2 tokenizer took 5.5 s and 0.3 GB as a whole.
 *
 * - line: the pre-tokenizer is byte-level by a known pattern. No alternative of these patterns matches a newline and a following
 *   non-space together, and a match that ends at a single newline between two non-spaces does not depend on what follows. So a
 *   word ends there in the whole text too.
 * - space: no pre-tokenizer, spaces become "▁" (Llama 2, Mistral). Each merge makes a token of the vocabulary; if no token has a
 *   "▁" after another character, no merge crosses from a non-space into a space, and both sides merge as if alone. The normalizer
 *   puts "▁" before every piece: it stands for the space at the cut, which is dropped.
 * - metaspace: the same by the Metaspace pre-tokenizer, which adds no "▁" before a piece that starts with a space: the space is kept.
 */
export interface Cutting {
  readonly at: 'line' | 'space' | 'metaspace'
  /** Texts that hold one of these are not cut: added tokens that would see the cut. */
  readonly unless: readonly string[]
}

type Json = Readonly<Record<string, unknown>>

const pieceChars = { line: 1 << 16, space: 1 << 13, metaspace: 1 << 13 }

/** Patterns of Split pre-tokenizers for which `line` was proved: Llama 3's, and Qwen 2's and cl100k's spellings of it. */
const knownPatterns = new Set(
  ['\\p{N}{1,3}', '\\p{N}'].flatMap(digits =>
    ["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"].map(
      suffix =>
        `${suffix}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
    ),
  ),
)

/** How texts may be cut for this tokenizer.json; undefined when none of the proofs above holds. */
export function cuttingOf(tokenizer: Json): Cutting | undefined {
  if (isByteLevel(tokenizer.pre_tokenizer) && isNfcOrNone(tokenizer.normalizer)) {
    return { at: 'line', unless: addedTokens(tokenizer, token => Boolean(token.lstrip || token.rstrip)) }
  }
  const at = spaceFamily(tokenizer)
  if (at === undefined || !spacesStartTokens(tokenizer.model)) return undefined
  return { at, unless: addedTokens(tokenizer, () => true) }
}

/** The pieces of `text`, in order; one piece when it may not be cut. */
export function* pieces(text: string, cutting: Cutting | undefined): Generator<string> {
  if (cutting === undefined || cutting.unless.some(token => text.includes(token))) {
    yield text
    return
  }
  let start = 0
  while (start < text.length) {
    const end = nextCut(text, start + pieceChars[cutting.at], cutting.at)
    yield text.slice(start, end)
    start = cutting.at === 'space' ? end + 1 : end
  }
}

/** The first place at or after `from` where a piece may end, or the end of the text. */
function nextCut(text: string, from: number, at: Cutting['at']): number {
  const mark = at === 'line' ? '\n' : ' '
  for (let i = text.indexOf(mark, from); i >= 0 && i + 1 < text.length; i = text.indexOf(mark, i + 1)) {
    if (at !== 'line' && text[i - 1] !== ' ' && text[i - 1] !== '▁') return i
    if (at === 'line' && !isSpace(text[i - 1]) && !isSpace(text[i + 1])) return i + 1
  }
  return text.length
}

/** White space by any of the definitions in use. */
const isSpace = (char: string): boolean => /[\s\x85\u180e]/u.test(char)

function isByteLevel(value: unknown): boolean {
  const steps = typeOf(value) === 'Sequence' ? listOf((value as Json).pretokenizers) : [value]
  const last = steps.at(-1) as Json | null | undefined
  if (typeOf(last) !== 'ByteLevel' || last?.add_prefix_space !== false) return false
  const before = steps.slice(0, -1)
  const splits = before.some(step => typeOf(step) === 'Split') || last.use_regex !== false
  return splits && before.every(step => typeOf(step) === 'Digits' || isKnownSplit(step))
}

function isKnownSplit(step: unknown): boolean {
  if (typeOf(step) !== 'Split') return false
  const { pattern, behavior, invert } = step as Json
  const regex = (pattern as Json | undefined)?.Regex
  return behavior === 'Isolated' && !invert && typeof regex === 'string' && knownPatterns.has(regex)
}

function spaceFamily(tokenizer: Json): 'space' | 'metaspace' | undefined {
  const { normalizer, pre_tokenizer: preTokenizer } = tokenizer
  if (typeOf(preTokenizer) === 'Metaspace' && !normalizer) {
    return (preTokenizer as Json).replacement === '▁' ? 'metaspace' : undefined
  }
  const steps = typeOf(normalizer) === 'Sequence' ? listOf((normalizer as Json).normalizers) : []
  const [prepend, replace] = steps as Json[]
  const same =
    steps.length === 2 &&
    typeOf(prepend) === 'Prepend' &&
    prepend.prepend === '▁' &&
    typeOf(replace) === 'Replace' &&
    (replace.pattern as Json | undefined)?.String === ' ' &&
    replace.content === '▁'
  return same && !preTokenizer ? 'space' : undefined
}

/** Whether the model is BPE and no token that a merge can make holds "▁" after another character. */
function spacesStartTokens(model: unknown): boolean {
  const { vocab, merges } = (model ?? {}) as Json
  if (typeof vocab !== 'object' || vocab === null || Array.isArray(vocab) || !Array.isArray(merges)) return false
  return merges.every(merge => {
    const pair: unknown[] = typeof merge === 'string' ? merge.split(' ') : listOf(merge)
    return pair.length === 2 && pair.every(part => typeof part === 'string') && !/[^▁]▁/u.test(pair.join(''))
  })
}

function addedTokens(tokenizer: Json, sees: (token: Json) => boolean): string[] {
  const contents: string[] = []
  for (const token of listOf(tokenizer.added_tokens) as (Json | null)[]) {
    if (typeof token?.content !== 'string') continue
    if (sees(token) || token.content.includes('\n')) contents.push(token.content)
  }
  return contents
}

const isNfcOrNone = (normalizer: unknown): boolean => !normalizer || typeOf(normalizer) === 'NFC'
const listOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])
const typeOf = (value: unknown): unknown =>
  typeof value === 'object' && value !== null ? (value as Json).type : undefined

/** Byte-pair merges as a list (transformers), and as scores of tokens (SentencePiece, llama.cpp). */

type Merge = readonly [left: string, right: string]

/** Longer tokens are not cut: published ones of SentencePiece have about 16. Keeps the time for a hostile vocabulary in bounds, as the next does. */
export const maxCharacters = 128
export const maxMerges = 4_000_000 // published lists have up to 700 000
const maxWork = 2e8 // pairs looked at; 200 000 published tokens take a tenth of it

/** Every way to cut a token into two that satisfy `isToken`. Cuts lie between characters, not inside a surrogate pair. */
export function* cutsOf(token: string, isToken: (part: string) => boolean): Generator<Merge> {
  if (token.length > maxCharacters) return
  for (let at = 1; at < token.length; at++) {
    const code = token.charCodeAt(at)
    if (code >= 0xdc00 && code < 0xe000) continue
    const left = token.slice(0, at)
    const right = token.slice(at)
    if (isToken(left) && isToken(right)) yield [left, right]
  }
}

/** What the merges make of one word; ranks by `rankKey`. */
const mergeWord = (word: string, ranks: ReadonlyMap<string, number>): readonly string[] => {
  const parts = [...word]
  for (;;) {
    let best = Number.POSITIVE_INFINITY
    let at = -1
    for (let i = 0; i + 1 < parts.length; i++) {
      const rank = ranks.get(rankKey(parts[i], parts[i + 1])) ?? Number.POSITIVE_INFINITY
      if (rank < best) {
        best = rank
        at = i
      }
    }
    if (at < 0) return parts
    parts.splice(at, 2, parts[at] + parts[at + 1])
  }
}

const rankKey = (left: string, right: string): string => `${left}\0${right}`

/** Whether the merges make every token out of its own characters: then it does not matter if a word that is a token is taken whole. */
export const mergesReachAll = (tokens: Iterable<string>, merges: readonly Merge[]): boolean => {
  const ranks = new Map(merges.map(([left, right], rank) => [rankKey(left, right), rank]))
  let work = 0
  for (const token of tokens) {
    work += token.length ** 2
    if (work > maxWork || mergeWord(token, ranks).length > 1) return false
  }
  return true
}

/**
 * Scores by which llama.cpp merges in the order of the list: a token has the rank of the first merge that makes it, negative. Tokens that no
 * merge makes get the lowest.
 */
export const scoresOf = (tokens: readonly string[], merges: readonly Merge[]): readonly number[] => {
  const order = new Map<string, number>()
  for (const [left, right] of merges) if (!order.has(left + right)) order.set(left + right, -order.size)
  return tokens.map(token => order.get(token) ?? -order.size)
}

/**
 * How many pairs of tokens llama.cpp would merge that the list does not: it merges whatever two make a token.
 * @param isToken of the model's own, without added ones
 */
export const unlistedMerges = (vocabulary: ReadonlySet<string>, merges: readonly Merge[]): number => {
  const listed = new Set(merges.map(([left, right]) => rankKey(left, right)))
  let count = 0
  for (const token of vocabulary)
    for (const [left, right] of cutsOf(token, part => vocabulary.has(part)))
      if (!listed.has(rankKey(left, right))) count++
  return count
}

/**
 * The list that merges as scores do: all cuts of all tokens, from the best score down; those of one token by their ids, as transformers lists
 * them. undefined: more than `maxMerges`.
 */
export const mergesOf = (scores: ReadonlyMap<string, number>): Merge[] | undefined => {
  const ids = new Map([...scores.keys()].map((token, id) => [token, id]))
  const merges: Merge[] = []
  for (const [token] of [...scores].sort(([, a], [, b]) => b - a)) {
    const cuts = [...cutsOf(token, part => scores.has(part))]
    cuts.sort((a, b) => ids.get(a[0])! - ids.get(b[0])! || ids.get(a[1])! - ids.get(b[1])!)
    merges.push(...cuts)
    if (merges.length > maxMerges) return undefined
  }
  return merges
}

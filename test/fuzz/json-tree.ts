/** Mutations of JSON that keep most of its structure: parts replaced, moved, doubled, renamed, wrapped; then some bytes changed. */
import fc from 'fast-check'

/** JSON as text in parts, so that keys may come twice and anything may stand where a value must. */
type Node = { text: string } | { items: Node[] } | { fields: [key: string, value: Node][] }

const treeOf = (value: unknown): Node => {
  if (Array.isArray(value)) return { items: value.map(treeOf) }
  if (typeof value === 'object' && value !== null)
    return { fields: Object.entries(value).map(([key, item]) => [JSON.stringify(key), treeOf(item)]) }
  return { text: JSON.stringify(value) }
}

const textOf = (node: Node): string => {
  if ('text' in node) return node.text
  if ('items' in node) return `[${node.items.map(textOf).join(',')}]`
  return `{${node.fields.map(([key, value]) => `${key}:${textOf(value)}`).join(',')}}`
}

/** A place where a value stands. */
interface Slot {
  readonly list: Node[] | [string, Node][]
  readonly index: number
}

const slotsOf = (root: Node): Slot[] => {
  const slots: Slot[] = []
  const visit = (node: Node): void => {
    if ('text' in node) return
    const list = 'items' in node ? node.items : node.fields
    list.forEach((entry, index) => {
      slots.push({ list, index })
      visit(Array.isArray(entry) ? entry[1] : entry)
    })
  }
  visit(root)
  return slots
}

const valueAt = ({ list, index }: Slot): Node => {
  const entry = list[index]
  return Array.isArray(entry) ? entry[1] : entry
}

const put = ({ list, index }: Slot, value: Node): void => {
  const entry = list[index]
  if (Array.isArray(entry)) entry[1] = value
  else list[index] = value as Node & [string, Node]
}

type Edit = (root: Node) => void

const kinds = ['replace', 'remove', 'double', 'rename', 'copy', 'wrap', 'number'] as const

const edit = (
  kind: (typeof kinds)[number],
  at: number,
  other: number,
  odd: string,
  key: string,
  depth: number,
): Edit => {
  return root => {
    const slots = slotsOf(root)
    if (slots.length === 0) return
    const slot = slots[at % slots.length]
    const { list, index } = slot
    const entry = list[index]
    if (kind === 'replace') put(slot, { text: odd })
    else if (kind === 'remove') list.splice(index, 1)
    else if (kind === 'double') (list as unknown[]).splice(index, 0, structuredClone(entry))
    else if (kind === 'rename' && Array.isArray(entry)) entry[0] = key
    else if (kind === 'copy') put(slot, structuredClone(valueAt(slots[other % slots.length])))
    else if (kind === 'wrap') put(slot, { text: `${'['.repeat(depth)}${textOf(valueAt(slot))}${']'.repeat(depth)}` })
    else if (kind === 'number') put(slot, { text: String(Number(textOf(valueAt(slot)) || 0) + (other % 5) - 2) })
  }
}

/** Values that are wrong in most places, as they stand in a file. */
const oddTexts = [
  ...[
    'null',
    'true',
    '0',
    '1',
    '2',
    '-1',
    '-0',
    '3',
    '64',
    '1.5',
    '1e0',
    '4.0',
    '00',
    '-',
    '.5',
    '+1',
    'NaN',
    'Infinity',
    '',
  ],
  ...['2147483647', '2147483648', '4294967296', '9007199254740991', '9007199254740992', '9223372036854775808'],
  ...['18446744073709551616', '1e308', '1e400', '-1e400', '5e-324', '99999999999999999999999999999999'],
  ...[
    '""',
    '"0"',
    '"a"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0000"',
    '"\\u001b[2J"',
    '"\u202e\u2028"',
    '"\\x"',
    '"\\',
  ],
  ...[
    '[]',
    '{}',
    '[[]]',
    '[null]',
    '[0,0]',
    '{"":0}',
    '{"__proto__":{}}',
    '{"length":1}',
    '{"toString":1}',
    '[1,[2,{"a":"b"}]]',
  ],
  ...[
    '"../x"',
    '"/etc/passwd"',
    '"..\\\\x"',
    '"x\\u0000"',
    '"(a+)+$"',
    '"(?<=(?:x|y)*)"',
    '"\\\\p{L}"',
    '"[\\\\"',
    `"${'x'.repeat(500)}"`,
  ],
]
const oddKeys = [
  '__proto__',
  'constructor',
  'toString',
  'length',
  '',
  '0',
  'a',
  '\ud800',
  '\u001b',
  '\u2028',
  'x'.repeat(400),
]

const editOf = (words: readonly string[]): fc.Arbitrary<Edit> => {
  const text = fc.oneof(
    fc.constantFrom(...oddTexts),
    fc.constantFrom(...words).map(word => JSON.stringify(word)),
  )
  const key = fc.oneof(
    fc.constantFrom(...oddKeys, ...words).map(word => JSON.stringify(word)),
    fc.string({ unit: 'binary', maxLength: 3 }).map(word => `"${word}"`),
  )
  const depth = fc.oneof({ weight: 9, arbitrary: fc.nat(3) }, { weight: 1, arbitrary: fc.nat(5000) })
  return fc
    .tuple(fc.constantFrom(...kinds), fc.nat(100_000), fc.nat(100_000), text, key, depth)
    .map(parts => edit(...parts))
}

/** Bytes changed, flipped, cut off, doubled or dropped. */
const byteEdit: fc.Arbitrary<(file: Uint8Array) => Uint8Array> = fc
  .tuple(fc.constantFrom('set', 'flip', 'cut', 'double', 'drop'), fc.nat(1_000_000), fc.nat(255))
  .map(([kind, position, value]) => file => {
    if (file.length === 0) return file
    const at = position % file.length
    if (kind === 'set') return file.with(at, value)
    if (kind === 'flip') return file.with(at, file[at] ^ (1 << (value % 8)))
    if (kind === 'cut') return file.slice(0, at)
    const length = value % 20
    if (kind === 'double') return new Uint8Array(Buffer.concat([file.subarray(0, at + length), file.subarray(at)]))
    return new Uint8Array(Buffer.concat([file.subarray(0, at), file.subarray(at + length)]))
  })

/** Up to three changes one after the other; mostly none. */
export const byteEdits: fc.Arbitrary<(file: Uint8Array) => Uint8Array> = fc
  .oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 3 }) })
  .chain(count => fc.array(byteEdit, { minLength: count, maxLength: count }))
  .map(edits => file => edits.reduce((bytes, apply) => apply(bytes), file))

/**
 * JSON near one of the sound documents.
 * @param words that may stand anywhere, as text or key
 */
export const jsonNear = (documents: readonly unknown[], words: readonly string[]): fc.Arbitrary<Uint8Array> =>
  fc
    .tuple(fc.constantFrom(...documents), fc.array(editOf(words), { maxLength: 4 }), byteEdits)
    .map(([document, edits, change]) => {
      const root = { items: [treeOf(document)] } // in a list, so that the whole can be replaced too
      for (const apply of edits) apply(root)
      return change(new TextEncoder().encode(root.items.map(textOf).join('')))
    })

/** Sizes and offsets that a file claims are added, subtracted and multiplied in src/io/size.ts only: every other +, - and * here is known. */
import { readdirSync, readFileSync } from 'node:fs'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

const folder = new URL('../../src/checkpoint/', import.meta.url)

/** Files without numbers of a file: positions in text that is in memory, what we write, and places within tensors whose sizes were checked. */
const exempt = new Set(['json-scanner.ts', 'json-string.ts', 'write-safetensors.ts', 'coverage.ts', 'row-runs.ts'])

/** Arithmetic that cannot leave the exact integers: lengths of arrays in memory, our own counters. */
const known: Readonly<Record<string, readonly string[]>> = {
  'finite-source.ts': [
    'zeroed += zeroIn(new View(whole.buffer as ArrayBuffer, whole.byteOffset, whole.byteLength / size), exponent)',
  ],
  'safetensors-header.ts': ['a.begin - b.begin', 'a.end - b.end'],
  'shard-plan.ts': [
    'rank.get(b.dtype)! - rank.get(a.dtype)!',
    'Math.ceil(text.byteLength / 8) * 8',
    '8 + length',
    'shards.length - 1',
    'index + 1',
  ],
  'read-weight.ts': [
    '2 ** 24',
    'Math.min(step, out.length) * size',
    'done += step',
    'done + step',
    'part.length * size',
    'top += tile',
    'left += tile',
    'top + tile',
    'left + tile',
    'col * rows + row',
    'row * cols + col',
    'col * rows',
    'row * cols',
  ],
  'onnx-plan.ts': [
    '(bytes.get(bits) ?? 0) + size',
    'y - x',
    'Number(a) - Number(b)',
    'Math.ceil(end / alignment) * alignment',
  ],
  'onnx-read.ts': ['256 * 2 ** 20', '2 ** 20'],
  'tensor-pieces.ts': [
    '4 * 2 ** 20',
    '2 ** 20',
    'start += buffer.byteLength',
    'start + buffer.byteLength',
    'end - start',
  ],
  'tensor-source.ts': ['2 ** 30', 'end - start'],
}

const arithmetic = new Set([
  ts.SyntaxKind.PlusToken,
  ts.SyntaxKind.MinusToken,
  ts.SyntaxKind.AsteriskToken,
  ts.SyntaxKind.AsteriskAsteriskToken,
  ts.SyntaxKind.LessThanLessThanToken,
  ts.SyntaxKind.PlusEqualsToken,
  ts.SyntaxKind.MinusEqualsToken,
  ts.SyntaxKind.AsteriskEqualsToken,
])

const isText = (node: ts.Node): boolean =>
  ts.isStringLiteralLike(node) ||
  ts.isTemplateExpression(node) ||
  (ts.isBinaryExpression(node) && (isText(node.left) || isText(node.right)))

const strays = (name: string): string[] => {
  const text = readFileSync(new URL(name, folder), 'utf8')
  const source = ts.createSourceFile(name, text, ts.ScriptTarget.ES2023, true)
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isBinaryExpression(node) && arithmetic.has(node.operatorToken.kind) && !isText(node))
      if (!known[name]?.includes(node.getText())) found.push(node.getText())
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

describe('arithmetic in src/checkpoint', () => {
  it.each(readdirSync(folder).filter(name => !exempt.has(name)))('%s has none but what is listed', name => {
    expect(strays(name)).toEqual([])
  })

  it('is seen where it stands', () => {
    expect(Object.keys(known).every(name => readdirSync(folder).includes(name))).toBe(true)
    expect(readdirSync(folder).flatMap(name => strays(name)).length).toBeGreaterThan(0) // those of the exempt files
  })
})

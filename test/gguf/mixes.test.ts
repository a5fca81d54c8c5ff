import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { type ChosenType, type MixModel, type MixName, mixes, typesOf } from '../../src/gguf/mixes.ts'
import { ggmlTypes } from '../../src/gguf/types.ts'

interface Shape extends MixModel {
  readonly hidden: number
  readonly feedForward: number
}

/** Runs of types in the order of `parts`; null where it failed. The second is with an imatrix, where it differs. */
type Recorded = readonly [without: string | null, withImatrix?: string | null]

/** fixtures/gguf-mixes/make.py: what llama-quantize wrote. */
const { parts, fileTypes, models } = JSON.parse(
  readFileSync(new URL('../../fixtures/gguf-mixes/types.json', import.meta.url), 'utf8'),
) as {
  parts: string[]
  fileTypes: Record<string, number>
  models: (Shape & { types: Record<string, Recorded> })[]
}

/** By part, then by block. */
const namesOf = ({ blocks, tied }: Shape): string[] =>
  parts.flatMap(part => {
    if (part === 'output' && tied) return []
    if (part === 'output' || part === 'token_embd') return `${part}.weight`
    return Array.from({ length: blocks }, (_, block) => `blk.${block}.${part}.weight`)
  })

const tensorsOf = (shape: Shape) =>
  namesOf(shape).map(name => ({ name, out: 16, in: name.includes('ffn_down') ? shape.feedForward : shape.hidden }))

const textOf = ({ type, instead }: ChosenType): string => (instead ? `${type}<${instead}` : type)

const runsOf = (chosen: readonly string[]): string => {
  const runs: { type: string; count: number }[] = []
  for (const type of chosen) {
    const last = runs.at(-1)
    if (last?.type === type) last.count++
    else runs.push({ type, count: 1 })
  }
  return runs.map(({ type, count }) => `${count} ${type}`).join(', ')
}

const chosenRuns = (mix: MixName, shape: Shape, withImatrix: boolean): string => {
  const tensors = tensorsOf(shape)
  const types = typesOf(mix, tensors, shape, withImatrix)
  return runsOf(tensors.map(({ name }) => textOf(types.get(name)!)))
}

const names = Object.keys(mixes) as MixName[]
const likeLlamaCpp = names.filter(name => name !== 'mxfp4')
const titleOf = ({ hidden, feedForward, blocks, heads, kvHeads, tied }: Shape): string =>
  `${blocks} blocks, ${hidden}/${feedForward} wide, ${heads}/${kvHeads} heads, ${tied ? 'tied' : 'untied'}`

describe('mixes', () => {
  it('have the file types that llama-quantize writes', () =>
    expect(Object.fromEntries(names.map(name => [name, mixes[name].fileType]))).toEqual(
      Object.fromEntries(names.map(name => [name, fileTypes[name]])),
    ))

  it('are all that were recorded but q2_k_s, which needs an imatrix', () => {
    expect([...names, 'q2_k_s'].sort()).toEqual(Object.keys(fileTypes).sort())
    const failed = models.flatMap(({ types }) => Object.keys(types).filter(mix => types[mix][0] === null))
    expect([...new Set(failed)]).toEqual(['q2_k_s'])
  })

  it.each(names)('%s says what it is for, in one line', name => expect(mixes[name].summary).toMatch(/^[^\n]{10,60}$/))
})

describe.each(models.map(model => [titleOf(model), model] as const))('%s', (_, model) => {
  it.each(likeLlamaCpp)('%s has the types of llama-quantize', mix => {
    const [without, withImatrix = without] = model.types[mix]
    expect(chosenRuns(mix, model, false)).toBe(without)
    expect(chosenRuns(mix, model, true)).toBe(withImatrix)
  })

  it('mxfp4 has MXFP4 in blocks, where llama-quantize has Q8_0 without experts', () => {
    const fits = (type: 'Q8_0' | 'MXFP4', inputs: number) =>
      inputs % ggmlTypes[type].block === 0 ? type : `F16<${type}`
    const tensors = tensorsOf(model)
    expect(model.types.mxfp4).toEqual([runsOf(tensors.map(tensor => fits('Q8_0', tensor.in)))])
    const expected = tensors.map(({ name, in: inputs }) => fits(name.startsWith('blk.') ? 'MXFP4' : 'Q8_0', inputs))
    expect(chosenRuns('mxfp4', model, false)).toBe(runsOf(expected))
  })
})

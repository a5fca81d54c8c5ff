/** Every format and grid on every fixture: no tensor is lost, and the figures are those of the files. */
import fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { readWeight } from '../../src/checkpoint/read-weight.ts'
import type { Format, GridName } from '../../src/contracts.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { formats } from '../../src/format/index.ts'
import { ownerOf } from '../../src/format/owner.ts'
import { nodeFiles } from '../../src/io/files.ts'
import type { Report } from '../../src/report/schema.ts'
import { readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0

const transformers = fileURLToPath(new URL('../../fixtures/transformers', import.meta.url))
const others = fs.readdirSync(transformers).filter(name => fs.existsSync(join(transformers, name, 'config.json')))

const namesIn = (path: string): readonly string[] => {
  const checkpoint = openCheckpoint(path, nodeFiles)
  checkpoint.close()
  return [...checkpoint.tensors.keys()]
}

/** Each source tensor is quantized or kept with a reason; each output tensor belongs to a linear or was kept; nothing else is there. */
const expectCovered = (source: string, output: string, { linears, kept, dropped }: Report): void => {
  const listed = kept.map(({ name }) => name)
  expect(dropped).toEqual([])
  expect(new Set([...linears.map(({ tensor }) => tensor), ...listed])).toEqual(new Set(namesIn(source)))
  const names = new Set(linears.map(({ name }) => name))
  const owned = namesIn(output).filter(name => !listed.includes(name))
  expect(new Set(owned.map(name => ownerOf(name, names)))).toEqual(names)
  expect(kept.every(({ reason }) => reason.length > 0)).toBe(true)
}

/** Errors and bits a weight, worked out in another way than the run did. */
const expectTrueFigures = (source: string, output: string, { linears }: Report): void => {
  const original = openCheckpoint(source, nodeFiles)
  const stored = loadModel(output, nodeFiles)
  for (const { name, tensor, weightMse, bitsPerWeight, shape } of linears) {
    const before = readWeight(original, { tensor }).data
    const after = stored.read({ tensor: `${name}.weight` })
    const noise = before.reduce((sum, weight, i) => sum + (weight - after[i]) ** 2, 0)
    expect(weightMse).toBeCloseTo(noise / before.length, 9)
    const parts = [...stored.checkpoint.tensors.values()].filter(part => ownerOf(part.name, new Set([name])))
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0)
    expect(bitsPerWeight).toBeCloseTo((8 * bytes) / (shape[0] * shape[1]), 10)
  }
  original.close()
  stored.checkpoint.close()
}

const quantize = async (source: string, format: Format, grid: GridName, ...more: string[]) => {
  const output = join(folder, `out${outputs++}`)
  if (format.choose) return { ...(await run(source, '-o', output, '--method', 'rtn', '--format', format.name)), output }
  const options = ['--method', 'rtn', '--format', format.name, '--grid', grid, '--group-fallback', ...more]
  const group = grid === 'int' && !format.facts.defaults?.group && !format.facts.impliedGroup ? ['--group', '32'] : []
  const eight = grid === 'int' && !format.facts.bits.includes(4) ? ['--bits', '8'] : []
  const ended = await run(source, '-o', output, ...group, ...eight, ...options)
  return { ...ended, output }
}

const combinations = Object.values(formats)
  .filter(({ facts, choose }) => facts.container !== 'onnx' && !(facts.dense && choose))
  .flatMap(format => format.facts.grids.map(grid => [format.name, grid, format] as const))

describe.each(combinations)('%s, %s', (_, grid, format) => {
  it('holds tiny-llama, and verify agrees', async () => {
    const options = format.name === 'bnb' && grid === 'int' ? ['--bits', '8', '--group', 'channel'] : []
    const { code, stderr, output } = await quantize(tinyLlama, format, grid, ...options)
    expect(stderr).not.toMatch(/^error/m)
    expect(code).toBe(0)
    const report = readReport(output)
    expectCovered(tinyLlama, output, report)
    expectTrueFigures(tinyLlama, output, report)
    expect((await run('verify', output, '--source', tinyLlama)).code).toBe(0)
  })
})

/** One grid of each format is enough; those whose types are a mix have no odd sizes. */
const formatsOfGroups = combinations.filter(([, grid, { facts, choose }]) => grid === facts.grids[0] && !choose)

describe.each(formatsOfGroups)('%s, %s', (_, grid, format) => {
  it('holds what fits of models of odd sizes, or says in one line that nothing does', async () => {
    for (const other of others) {
      const source = join(transformers, other)
      const { code, stderr, output } = await quantize(source, format, grid, '--unfit', 'keep')
      if (code === 0) expectCovered(source, output, readReport(output))
      else expect([code, stderr.match(/^error/gm)?.length], stderr).toEqual([4, 1])
    }
  })
})

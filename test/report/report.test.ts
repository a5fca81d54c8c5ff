import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { z } from 'zod'
import { QuantizeError } from '../../src/errors.ts'
import { buildReport } from '../../src/report/build.ts'
import { parseReport, reportJson } from '../../src/report/json.ts'
import { reportSchema } from '../../src/report/schema.ts'
import { reportTable } from '../../src/report/table.ts'
import { linearFacts, reportFacts } from './facts.ts'

const report = buildReport(reportFacts)

describe('buildReport', () => {
  it('holds the schema', () => {
    expect(reportSchema.parse(report)).toEqual(report)
  })

  it('counts all that is stored: 4 + 20/64 + 32/out bits a weight', () => {
    expect(report.linears[0].bitsPerWeight).toBe(4 + 20 / 64 + 32 / 128)
    expect(report.totals).toMatchObject({
      linears: 4,
      quantizedWeights: 2 * 128 * (128 + 384),
      bitsPerWeight: 4 + 20 / 64 + 32 / 128,
      bitsPerWeightOverall: (8 * 210_000) / 200_000,
      bytesBefore: 400_000,
    })
  })

  it('takes the SQNR of the whole from the sums, not from the mean of decibels', () => {
    const linears = [
      { ...reportFacts.linears[0], error: { ...reportFacts.linears[0].error, energy: 1000, errorEnergy: 10 } },
      { ...reportFacts.linears[1], error: { ...reportFacts.linears[1].error, energy: 0, errorEnergy: 0 } },
    ]
    expect(buildReport({ ...reportFacts, linears }).totals.sqnrDb).toBeCloseTo(20, 12)
  })

  it('has totals of a run that quantized nothing', () => {
    const { totals } = buildReport({ ...reportFacts, linears: [] })
    expect(totals).toMatchObject({ linears: 0, quantizedWeights: 0, bitsPerWeight: 0, sqnrDb: null })
  })
})

describe('quantize-report.json', () => {
  it('reads back as it was', () => {
    expect(parseReport(reportJson(report), 'quantize-report.json')).toEqual(report)
  })

  it('has the same bytes whatever order its fields came in', () => {
    const reversed = <T extends object>(value: T): T => Object.fromEntries(Object.entries(value).reverse()) as T
    const other = reversed({ ...report, totals: reversed(report.totals), outputs: reversed(report.outputs) })
    expect(reportJson(other)).toBe(reportJson(report))
    const text = reportJson(report)
    expect(text.indexOf('"config.json"')).toBeLessThan(text.lastIndexOf('"model.safetensors": {'))
    expect(text.endsWith('}\n')).toBe(true)
  })

  it.each<[string, (text: string) => string, RegExp]>([
    ['not JSON', text => text.slice(0, 50), /^r.json is not JSON: [^\n]+$/],
    ['a later version', text => text.replace('"schema": 1', '"schema": 2'), /schema 1: schema: /],
    [
      'a wrong type',
      text => text.replace('"bits": 4,\n      "symmetric"', '"bits": 9,\n      "symmetric"'),
      /linears\[0\]\.bits/,
    ],
    ['an unknown field', text => text.replace('"schema": 1', '"schema": 1, "extra": 0'), /the document: .*extra/],
    ['another document', () => '[]', /the document/],
  ])('refuses %s', (_, change, message) => {
    const run = () => parseReport(change(reportJson(report)), 'r.json')
    expect(run).toThrow(QuantizeError)
    expect(run).toThrow(message)
  })

  it('never holds a number that JSON cannot say', () => {
    const spoiled = { ...report, totals: { ...report.totals, seconds: Number.NaN } }
    expect(() => reportJson(spoiled)).toThrow()
  })
})

/** All field names of a schema, at any depth. */
const fieldsOf = (schema: z.core.$ZodType): string[] => {
  const definition = (schema as z.ZodType).def as unknown as Record<string, unknown> & { type: string }
  const inside = (key: string): string[] => fieldsOf(definition[key] as z.core.$ZodType)
  if (definition.type === 'object')
    return Object.entries(definition.shape as Record<string, z.core.$ZodType>).flatMap(([name, field]) => [
      name,
      ...fieldsOf(field),
    ])
  if (definition.type === 'array') return inside('element')
  if (definition.type === 'nullable') return inside('innerType')
  return definition.type === 'record' && (definition.valueType as z.ZodType).def.type === 'object'
    ? inside('valueType')
    : []
}

it('docs/report.md explains every field', () => {
  const page = readFileSync(new URL('../../docs/report.md', import.meta.url), 'utf8')
  const fields = new Set(fieldsOf(reportSchema))
  expect(fields.size).toBeGreaterThan(45)
  for (const field of fields) expect(page, field).toContain(`\`${field}\``)
})

describe('reportTable', () => {
  it('has a row for each kind, then the totals', () => {
    expect(reportTable(report, { width: 120 }).split('\n')).toEqual([
      'linears    count  bits  group    bpw  SQNR dB  worst  out. error    worst  worst linear',
      'q_proj         2     4     64  4.563     19.0   18.0     0.02000  0.03000  model.layers.1.self_attn.q_proj',
      'down_proj      2     4     64  4.563     22.0   22.0     0.00100  0.00200  model.layers.0.mlp.down_proj',
      '',
      '4 linears of 131072 weights at 4.563 bits a weight; the whole file 8.400',
      '400.0 kB -> 210.0 kB (52.5 %) in 1.5 s, peak memory 2.00 GB',
      '1 linear rounded to nearest instead of gptq (fallback in the report)',
      '1 tensor kept as they were (reasons in the report)',
      'warning: groups of 48: vLLM 0.33 loads only 32, 64, 128 or channel',
    ])
  })

  it('goes by SQNR where there was no data', () => {
    const linears = [
      linearFacts('a.0.w1', 64, 64, 19, null),
      linearFacts('a.1.w1', 64, 64, 17, null),
      linearFacts('a.2.w1', 64, 64, null, null),
    ]
    const [, row] = reportTable(buildReport({ ...reportFacts, linears }), { width: 100 }).split('\n')
    expect(row.split(/\s+/)).toEqual(['w1', '3', '4', '64', '4.813', '18.0', '17.0', '-', '-', 'a.1.w1'])
  })

  it.each([80, 100, 120])('has no line over %i columns', width => {
    const linears = [linearFacts(`model.${'deep.'.repeat(30)}self_attn.q_proj`, 64, 64, 19, 1e-7)]
    const table = reportTable(buildReport({ ...reportFacts, linears, warnings: ['word '.repeat(60).trim()] }), {
      width,
    })
    for (const line of table.split('\n')) expect(line.length).toBeLessThanOrEqual(width)
    expect(table).toContain('self_attn.q_proj'.slice(-6))
  })

  it('lets no name drive the terminal or break a line', () => {
    const linears = [linearFacts('model.\u001b[31m\nx.q_proj\u202e', 64, 64, 19, 0.1)]
    const table = reportTable(buildReport({ ...reportFacts, linears, warnings: ['a\nb'] }), { width: 120 })
    expect(table).not.toMatch(/[^\P{Cc}\n]|\p{Cf}/u)
    expect(table.split('\n')).toHaveLength(7)
  })

  it('says so when nothing was quantized, and colours only when asked', () => {
    const empty = buildReport({ ...reportFacts, linears: [] })
    expect(reportTable(empty, { width: 80 })).toMatch(/^no linear was quantized\n/)
    const style = { heading: (text: string) => `<${text}>`, warning: (text: string) => `!${text}` }
    const styled = reportTable(report, { width: 120, style }).split('\n')
    expect(styled[0]).toMatch(/^<linears .*>$/)
    expect(styled.at(-1)).toMatch(/^!warning/)
  })
})

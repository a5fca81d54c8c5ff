/** quantize compare: tables, documents and the gate. */
import fs from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { main } from '../../src/cli/main.ts'
import { quantizeTo, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'
import { FakeProcess } from './fake-process.ts'

const folder = temporaryFolder()
const coded = join(folder, 'coded')
let report: Awaited<ReturnType<typeof quantizeTo>>

beforeAll(async () => {
  report = await quantizeTo(coded, tinyLlama, '--method', 'rtn', '--group', '64', '--format', 'gptq')
})

/** A lone file of one tensor. */
const lone = (name: string, header: object, data: readonly number[]): string => {
  const path = join(folder, name)
  const text = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  fs.writeFileSync(path, Buffer.concat([length, text, Buffer.from(Float32Array.from(data).buffer)]))
  return path
}

const vector = (name: string, tensor: string, data: readonly number[]): string =>
  lone(name, { [tensor]: { dtype: 'F32', shape: [data.length], data_offsets: [0, 4 * data.length] } }, data)

describe('compare', () => {
  it('gives the errors of the report, linear by linear', async () => {
    const { code, stdout } = await run('compare', tinyLlama, coded, '--json')
    expect(code).toBe(0)
    const document = JSON.parse(stdout)
    expect(document).toMatchObject({ a: tinyLlama, b: coded, formats: { a: null, b: 'gptq' }, tolerance: null })
    expect([document.beyond, document.onlyInA, document.onlyInB]).toEqual([[], [], []])
    const byName = new Map(document.tensors.map((tensor: { name: string }) => [tensor.name, tensor]))
    expect(byName.size).toBe(report.linears.length + report.kept.length)
    for (const { name, sqnrDb, maxAbsError, shape } of report.linears)
      expect(byName.get(`${name}.weight`)).toMatchObject({
        a: { stored: 'BF16', shape },
        b: { stored: 'gptq int4', shape },
        sqnrDb: expect.closeTo(sqnrDb!, 6),
        maxAbsError,
      })
    for (const { name } of report.kept) expect(byName.get(name)).toMatchObject({ maxAbsError: 0, sqnrDb: null })
    expect(document.maxAbsError).toBe(Math.max(...report.linears.map(({ maxAbsError }) => maxAbsError)))
  })

  it('prints a line for each tensor, and the totals', async () => {
    const { stdout, stderr } = await run('compare', tinyLlama, coded)
    expect(stdout).toMatch(/^tensor +shape +a +b +SQNR dB +max error +cosine\n/)
    expect(stdout).toMatch(
      /model\.layers\.0\.mlp\.up_proj\.weight +\[384, 128\] +BF16 +gptq int4 +\d+\.\d\d +\d\.\d{3}e-\d +0\.\d{6}\n/,
    )
    expect(stdout).toMatch(/model\.norm\.weight +\[128\] +BF16 +BF16 +identical\n/)
    expect(stdout).toMatch(/\n38 tensors in both, 10 of them identical; largest error .*, SQNR of all \d+\.\d\d dB\n$/)
    expect(stderr).toContain('compare')
  })

  it('a checkpoint with itself is identical', async () => {
    const { code, stdout } = await run('compare', coded, coded, '--tolerance', '0', '--quiet')
    expect(code).toBe(0)
    expect(stdout).toMatch(/38 tensors in both, 38 of them identical; largest error 0\.000e\+0, SQNR of all -\n$/)
  })

  it('fails the gate after its document', async () => {
    const largest = Math.max(...report.linears.map(({ maxAbsError }) => maxAbsError))
    expect((await run('compare', tinyLlama, coded, '--tolerance', String(largest))).code).toBe(0)
    const { code, stdout, stderr } = await run(
      'compare',
      tinyLlama,
      coded,
      '--tolerance',
      String(0.99 * largest),
      '--json',
    )
    expect(code).toBe(1)
    const { beyond, tensors } = JSON.parse(stdout)
    expect(beyond.length).toBeGreaterThan(0)
    expect(tensors.filter(({ maxAbsError }: { maxAbsError: number }) => maxAbsError > 0.99 * largest)).toHaveLength(
      beyond.length,
    )
    expect(stderr).toMatch(/error: --tolerance [\d.]+: .* not agree; the first: model\.layers/)
  })

  it('lists what one side lacks; only a tolerance makes it fail', async () => {
    const [a, b] = [vector('a.safetensors', 'x', [1]), vector('b.safetensors', 'y', [1])]
    const { code, stdout } = await run('compare', a, b)
    expect([code, stdout]).toEqual([
      0,
      `only in ${a}: x\nonly in ${b}: y\n\n0 tensors in both, 0 of them identical; largest error 0.000e+0, SQNR of all -\n`,
    ])
    const failed = await run('compare', a, b, '--tolerance', '1000')
    expect([failed.code, failed.stderr]).toEqual([1, 'error: --tolerance 1000: 2 tensors do not agree; the first: x\n'])
  })

  it('tells other shapes and infinities', async () => {
    const one = vector('one.safetensors', 'x', [1])
    const two = await run('compare', one, vector('two.safetensors', 'x', [1, 2]))
    expect(two.stdout).toMatch(/x +\[1\] +F32 +F32 +against \[2\]\n/)
    const infinite = await run(
      'compare',
      one,
      vector('inf.safetensors', 'x', [Number.POSITIVE_INFINITY]),
      '--tolerance',
      '9',
    )
    expect(infinite.code).toBe(1)
    expect(infinite.stdout).toMatch(/1 not finite on one side\n/)
  })

  it('stops at a signal', async () => {
    const proc = new FakeProcess(['compare', tinyLlama, coded])
    const done = main(proc)
    proc.emit('SIGINT', 'SIGINT')
    await done
    expect([proc.exitCode, proc.stdout.text]).toEqual([130, ''])
  })

  it('refuses what cannot be read, either side', async () => {
    for (const args of [
      ['/nowhere', coded],
      [coded, '/nowhere'],
    ])
      expect(await run('compare', ...args)).toMatchObject({
        code: 3,
        stdout: '',
        stderr: expect.stringMatching(/nowhere/),
      })
  })
})

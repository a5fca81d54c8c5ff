/** Grids that no runtime's format stores, through the command line: written, read back, converted without loss. */
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { quantizeTo, readReport, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const rtn = ['--method', 'rtn', '--group', '64'] as const

it.each([
  ['fp4', 5],
  ['nvfp4', 4.5],
])('%s is stored, and verifies against its source', async (grid, bitsPerWeight) => {
  const output = join(folder, grid)
  const report = await quantizeTo(output, tinyLlama, '--method', 'rtn', '--grid', grid, '--format', 'codebook')
  for (const linear of report.linears) {
    const table = (32 * 16 + (grid === 'nvfp4' ? 32 : 0)) / (linear.shape[0] * linear.shape[1])
    expect(linear.bitsPerWeight).toBeCloseTo(bitsPerWeight + table, 10)
  }
  expect(report.warnings.join()).toMatch(/no runtime loads the codebook format/)
  expect((await run('verify', output, '--source', tinyLlama)).code).toBe(0)
  const { quantization } = JSON.parse((await run('inspect', output, '--json')).stdout)
  expect(quantization).toMatchObject({ format: 'codebook', linears: 28, schemes: [{ grid, bits: 4, linears: 28 }] })
})

it('holds what another format holds: there and back are the same bytes', async () => {
  const [source, there, back] = ['source', 'there', 'back'].map(name => join(folder, name))
  const { outputs } = await quantizeTo(source, tinyLlama, ...rtn, '--format', 'gptq')
  expect((await run('convert', source, '--format', 'codebook', '-o', there)).code).toBe(0)
  expect((await run('compare', source, there, '--tolerance', '0')).code).toBe(0)
  expect((await run('convert', there, '--format', 'gptq', '-o', back)).code).toBe(0)
  expect(readReport(back).outputs['model.safetensors']).toEqual(outputs['model.safetensors'])
})

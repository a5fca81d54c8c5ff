import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { quantizeTo, readReport, run, tinyLlama } from './helpers/command-line.ts'
import { temporaryFolder } from './helpers/temporary-folder.ts'

const folder = temporaryFolder()
const output = join(folder, 'out')
await quantizeTo(output, tinyLlama, '--method', 'rtn', '--group', '64')

/** A copy of the output that something happened to. */
let copies = 0
const copy = (change: (folder: string) => void): string => {
  const to = join(folder, `copy${copies++}`)
  fs.cpSync(output, to, { recursive: true })
  change(to)
  return to
}

const rewriteReport = (to: string, change: (report: ReturnType<typeof readReport>) => void): void => {
  const report = readReport(to)
  change(report)
  fs.writeFileSync(join(to, 'quantize-report.json'), JSON.stringify(report))
}

describe('quantize verify', () => {
  it('finds an output as it was written, with and without its source', async () => {
    const alone = await run('verify', output, '--json')
    const { files, linears } = JSON.parse(alone.stdout)
    expect([alone.code, files, linears]).toEqual([0, Object.keys(readReport(output).outputs).length, null])
    const both = await run('verify', output, '--source', tinyLlama)
    expect([both.code, both.stdout]).toEqual([0, expect.stringMatching(/28 linears have the errors.*10 tensors/)])
  })

  it('warns of a file that the report does not name', async () => {
    const more = copy(to => fs.writeFileSync(join(to, 'notes.txt'), 'mine'))
    const { code, stderr } = await run('verify', more)
    expect([code, stderr]).toEqual([0, expect.stringContaining('notes.txt is not in the report')])
  })

  it.each<readonly [string, (to: string) => void, RegExp, boolean]>([
    [
      'a flipped bit',
      to => {
        const path = join(to, 'model.safetensors')
        const bytes = fs.readFileSync(path)
        bytes[bytes.length - 100] ^= 4
        fs.writeFileSync(path, bytes)
      },
      /model\.safetensors: has SHA-256 .*the report says/,
      false,
    ],
    ['a cut file', to => fs.truncateSync(join(to, 'tokenizer.json'), 10), /tokenizer\.json: has 10 bytes/, false],
    ['a missing file', to => fs.rmSync(join(to, 'config.json')), /config\.json: is missing/, false],
    ['no report', to => fs.rmSync(join(to, 'quantize-report.json')), /holds no quantize-report\.json/, false],
    [
      'a report that names a path',
      to =>
        rewriteReport(to, ({ outputs }) => {
          outputs['../out/config.json'] = outputs['config.json']
        }),
      /no plain file name/,
      false,
    ],
    [
      'a figure that is too good',
      to =>
        rewriteReport(to, ({ linears }) => {
          linears[3].weightMse /= 2
        }),
      /self_attn\.\w+: weightMse is .*; the report says/,
      true,
    ],
    [
      'a tensor said to be kept',
      to => rewriteReport(to, ({ kept }) => void kept.push({ name: 'model.nothing', reason: 'none' })),
      /holds no tensor model\.nothing/,
      true,
    ],
  ])('names %s', async (_, change, message, needsSource) => {
    const changed = copy(change)
    const { code, stderr } = await run('verify', changed, ...(needsSource ? ['--source', tinyLlama] : []))
    expect([code, stderr]).toEqual([3, expect.stringMatching(message)])
    if (needsSource) expect((await run('verify', changed)).code).toBe(0)
  })

  it('refuses another source', async () => {
    const other = join(folder, 'other')
    fs.cpSync(tinyLlama, other, { recursive: true })
    const path = join(other, 'model.safetensors')
    const bytes = fs.readFileSync(path)
    bytes[bytes.length - 1] ^= 1
    fs.writeFileSync(path, bytes)
    const { code, stderr } = await run('verify', output, '--source', other)
    expect([code, stderr]).toEqual([3, expect.stringContaining('is not the file that was quantized')])
  })
})

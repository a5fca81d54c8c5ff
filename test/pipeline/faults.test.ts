/** File operations of a run failed once each (`npm run faults` fails all): a clean error, nothing half done under the final name, and the next run gives the same bytes. */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { QuantizeError } from '../../src/errors.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { openDescriptors } from '../checkpoint/support.ts'
import { attempt, contentOf, failing, faults, runOnce } from '../helpers/faults.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const source = join(folder, 'model')
fs.cpSync(new URL('../../fixtures/transformers/llama-mha', import.meta.url), source, { recursive: true })
fs.copyFileSync(new URL('../../fixtures/tokenizer/golden.json', import.meta.url), join(source, 'notes.json'))
const request = { method: 'rtn', group: 'channel' } as const

/** One call in so many, another one for each fault: all would take minutes. */
const stride = 11

describe.each(faults)('a %s', fault => {
  it('at a file operation of a run ends it with one clear error, and the next run finishes it with the same bytes', async () => {
    const whole = failing(-1, fault)
    const complete = join(folder, `whole ${fault}`)
    await runOnce(source, request, whole.files, complete)
    const expected = contentOf(complete)
    const total = whole.calls.length
    expect(total).toBeGreaterThan(100)
    const published = whole.calls.lastIndexOf('rename') // it gives the output its name
    const descriptors = openDescriptors()
    let failed = 0
    let resumed = 0
    for (let n = faults.indexOf(fault); n < total; n += fault === 'short read' ? 3 : stride) {
      const output = join(folder, `${fault} ${n}`)
      const { error, ...left } = await attempt(source, request, n, fault, output)
      if (error !== undefined) {
        failed++
        if (left.resumable) resumed++
        expect(error, `call ${n}: ${String(error)}`).toBeInstanceOf(QuantizeError)
        expect((error as Error).message).not.toMatch(/\p{Cc}/u)
        expect(left.published, `call ${n} (${whole.calls[n]}) left an output`).toBe(n > published)
      }
      expect(contentOf(output), `call ${n}`).toEqual(expected)
      expect(fs.existsSync(`${output}.partial`)).toBe(false)
    }
    expect(failed).toBeGreaterThan(5)
    expect(resumed).toBeGreaterThan(fault === 'short read' ? 0 : 5)
    expect(openDescriptors()).toEqual(descriptors)
  })
})

it('does not start where the output has no room', async () => {
  const output = join(folder, 'no room')
  const files = { ...nodeFiles, freeBytes: () => 1000 }
  await expect(runOnce(source, request, files, output)).rejects.toThrow(/takes \d+ more bytes, and 1000 are free/)
  expect(fs.existsSync(`${output}.partial`)).toBe(false)
})

it('says that a file of the model changed while it was read, and goes on once it is as it was', async () => {
  const output = join(folder, 'changed')
  const weights = join(source, 'model.safetensors')
  const bytes = fs.readFileSync(weights)
  let touched = false
  const files: typeof nodeFiles = {
    ...nodeFiles,
    syncFolder(path) {
      if (!touched && path.endsWith('output')) {
        touched = true
        fs.writeFileSync(weights, bytes)
      }
      nodeFiles.syncFolder(path)
    },
  }
  await expect(runOnce(source, request, files, output)).rejects.toThrow(
    /model\.safetensors: was changed or replaced while it was read/,
  )
  expect(touched).toBe(true)
  expect(fs.existsSync(output)).toBe(false)
  await runOnce(source, request, nodeFiles, output)
  expect(fs.existsSync(output)).toBe(true)
})

describe('a run that was cut off', () => {
  const cutOff = async (name: string): Promise<string> => {
    const output = join(folder, name)
    const { calls } = failing(-1, 'full disk')
    const whole = failing(-1, 'full disk')
    await runOnce(source, request, whole.files, `${output} whole`)
    const middle = whole.calls.map((call, n) => (call === 'writeAt' ? n : -1)).filter(n => n >= 0)
    await expect(
      runOnce(source, request, failing(middle[Math.floor(middle.length / 2)], 'full disk').files, output),
    ).rejects.toThrow('full disk')
    expect(calls).toEqual([])
    expect(fs.existsSync(`${output}.partial`)).toBe(true)
    return output
  }

  it('is not resumed with another recipe: what changed is named', async () => {
    const output = await cutOff('recipe')
    await expect(runOnce(source, { ...request, bits: 8 }, nodeFiles, output)).rejects.toThrow(
      /unfinished run of other inputs \(recipe\.bits: 4, now 8\); --no-resume starts over/,
    )
    await runOnce(source, { ...request, bits: 8 }, nodeFiles, output, false)
    expect(fs.existsSync(`${output}.partial`)).toBe(false)
  })

  it('is not resumed with another model, but is when the same bytes were written again', async () => {
    const output = await cutOff('other model')
    const weights = join(source, 'model.safetensors')
    const bytes = fs.readFileSync(weights)
    const changed = Buffer.from(bytes)
    changed[changed.length - 1] ^= 1
    fs.writeFileSync(weights, changed)
    await expect(runOnce(source, request, nodeFiles, output)).rejects.toThrow('the content of model.safetensors')
    fs.writeFileSync(weights, bytes)
    await runOnce(source, request, nodeFiles, output)
    expect(contentOf(output).hashes).toEqual(contentOf(`${output} whole`).hashes)
  })

  it('does again what was damaged since, and takes over the rest', async () => {
    const output = await cutOff('damaged')
    const data = join(`${output}.partial`, 'output', 'model.safetensors')
    const bytes = fs.readFileSync(data)
    bytes.fill(0xa5, bytes.length / 4, bytes.length / 2)
    fs.writeFileSync(data, bytes)
    await runOnce(source, request, nodeFiles, output)
    expect(contentOf(output).hashes).toEqual(contentOf(`${output} whole`).hashes)
  })

  it('goes on behind a half written record', async () => {
    const output = await cutOff('torn')
    fs.appendFileSync(join(`${output}.partial`, 'journal'), '0123456789abcdef {"name":"half')
    await runOnce(source, request, nodeFiles, output)
    expect(contentOf(output).hashes).toEqual(contentOf(`${output} whole`).hashes)
  })

  it('is left alone while another process writes it', async () => {
    const output = await cutOff('locked')
    const lock = join(`${output}.partial`, 'lock')
    fs.writeFileSync(lock, JSON.stringify({ host: 'elsewhere', pid: 1 }))
    await expect(runOnce(source, request, nodeFiles, output)).rejects.toThrow(/process 1 on elsewhere is writing it/)
    fs.rmSync(lock)
    await runOnce(source, request, nodeFiles, output)
  })

  it('of a folder that is not ours is refused, and nothing in it is touched', async () => {
    const output = join(folder, 'foreign')
    fs.mkdirSync(`${output}.partial`)
    fs.writeFileSync(join(`${output}.partial`, 'thesis.tex'), 'dear')
    for (const resume of [true, false])
      await expect(runOnce(source, request, nodeFiles, output, resume)).rejects.toThrow(/no unfinished run.*thesis/)
    expect(fs.readdirSync(`${output}.partial`)).toEqual(['thesis.tex'])
  })

  it('is over when only its folder was left behind', async () => {
    const output = await cutOff('published')
    const partial = `${output}.partial`
    fs.cpSync(partial, `${folder}/kept`, { recursive: true })
    await runOnce(source, request, nodeFiles, output)
    fs.cpSync(`${folder}/kept`, partial, { recursive: true })
    fs.rmSync(join(partial, 'output'), { recursive: true })
    const before = contentOf(output)
    await runOnce(source, request, nodeFiles, output)
    expect(contentOf(output)).toEqual(before)
    expect(fs.existsSync(partial)).toBe(false)
  })
})

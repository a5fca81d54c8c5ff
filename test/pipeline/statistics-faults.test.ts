/** File operations of a run that collects statistics failed once each, and what the next run makes of it. */
import fs from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.ts'
import { createEngine, type Engine } from '../../src/engine/ort/session.ts'
import { QuantizeError } from '../../src/errors.ts'
import { loadModel } from '../../src/evaluate/load-model.ts'
import type { Clock } from '../../src/io/clock.ts'
import { type Files, nodeFiles } from '../../src/io/files.ts'
import { runStatistics } from '../../src/run/statistics.ts'
import { openDescriptors } from '../checkpoint/support.ts'
import { type Fault, failing, faults } from '../helpers/faults.ts'
import { textFacts } from '../helpers/statistics.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
const source = join(folder, 'model')
fs.cpSync(new URL('../../fixtures/transformers/llama-mha', import.meta.url), source, { recursive: true })
fs.rmSync(join(source, 'expected.safetensors'))

/** It stands still: every finished tap is made durable at once. */
const clock: Clock = { now: () => 0, peakMemoryBytes: () => 0 }
const windows = Array.from({ length: 3 }, (_, at) => Int32Array.from({ length: 8 }, (_, i) => 1 + ((at * 8 + i) % 20)))
const sample = { windows, report: textFacts(24) }

let engine: Engine
beforeAll(async () => {
  engine = await createEngine(1)
})
afterAll(() => engine.release())

interface Told {
  readonly notes: string[]
  readonly taps: string[]
}

/** @param onTap called behind each chunk of a tap that is computed */
const collectOnce = async (
  output: string,
  files: Files,
  { overwrite = false, resume = true, onTap = (_: string) => {} } = {},
): Promise<Told> => {
  const told: Told = { notes: [], taps: [] }
  const loaded = loadModel(source, files)
  const pass = {
    onChunk(_: unknown, stage: { readonly linears: readonly { readonly name: string }[] } | undefined) {
      if (stage) onTap(stage.linears[0].name)
    },
  }
  const context = {
    files,
    clock,
    signal: new AbortController().signal,
    progress: (event: { readonly kind: string; readonly text?: string }) => {
      if (event.kind === 'note') told.notes.push(event.text!)
    },
  }
  try {
    await runStatistics(engine, loaded, sample, output, { overwrite, resume }, pass, context)
    return told
  } finally {
    loaded.checkpoint.close()
  }
}

const caught = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  )

const whole = join(folder, 'whole.safetensors')
const bytesOf = (path: string): Buffer => fs.readFileSync(path)

/** A run that ends when its fourth tap was computed: three are finished. */
const cutOff = async (name: string): Promise<string> => {
  const output = join(folder, `${name}.safetensors`)
  let seen = 0
  const stopped = collectOnce(output, nodeFiles, {
    onTap() {
      if (++seen === 4) throw new Error('stopped')
    },
  })
  expect(await caught(stopped)).toMatchObject({ message: 'stopped' })
  expect(fs.existsSync(output)).toBe(false)
  expect(fs.readdirSync(`${output}.partial`)).toEqual(['journal', 'output'])
  return output
}

describe.each(faults)('a %s', (fault: Fault) => {
  it('at a file operation ends the run with one clear error, and the next run finishes it with the same bytes', async () => {
    if (!fs.existsSync(whole)) await collectOnce(whole, nodeFiles)
    const { files, calls } = failing(-1, fault)
    await collectOnce(join(folder, `${fault}.safetensors`), files)
    const published = calls.lastIndexOf('rename')
    const descriptors = openDescriptors()
    let [failed, resumed] = [0, 0]
    for (let n = faults.indexOf(fault); n < calls.length; n += fault === 'short read' ? 2 : 3) {
      const output = join(folder, `${fault} ${n}.safetensors`)
      const error = await caught(collectOnce(output, failing(n, fault).files))
      if (error !== undefined) {
        failed++
        expect(error, `call ${n}: ${String(error)}`).toBeInstanceOf(QuantizeError)
        expect(fs.existsSync(output), `call ${n} (${calls[n]}) left an output`).toBe(n > published)
        if (fs.existsSync(`${output}.partial`)) resumed++
        await collectOnce(output, nodeFiles)
      }
      expect(bytesOf(output).equals(bytesOf(whole)), `call ${n}`).toBe(true)
      expect(fs.existsSync(`${output}.partial`)).toBe(false)
    }
    expect(failed).toBeGreaterThan(5)
    if (fault !== 'short read') expect(resumed).toBeGreaterThan(5)
    expect(openDescriptors()).toEqual(descriptors)
  })
})

describe('a run that was cut off', () => {
  it('goes on with what it lacks: finished taps are not written again', async () => {
    const output = await cutOff('goes on')
    const written: string[] = []
    const files: Files = {
      ...nodeFiles,
      open(path, mode) {
        const descriptor = nodeFiles.open(path, mode)
        if (path.endsWith('output') && mode === 'update') written.push(`open ${descriptor}`)
        return descriptor
      },
      writeAt(descriptor, data, position) {
        if (written[0] === `open ${descriptor}`) written.push(`${position}`)
        nodeFiles.writeAt(descriptor, data, position)
      },
    }
    const { notes } = await collectOnce(output, files)
    expect(notes).toEqual(['going on: 3 inputs were finished by an earlier run'])
    // its header, and six tensors of each of the other five taps
    expect(written).toHaveLength(1 + 1 + 6 * 5)
    expect(bytesOf(output).equals(bytesOf(whole))).toBe(true)
  })

  it('runs no model when all was finished', async () => {
    const output = join(folder, 'all finished.safetensors')
    const probe = failing(-1, 'full disk')
    await collectOnce(join(folder, 'probe.safetensors'), probe.files)
    const published = probe.calls.lastIndexOf('rename')
    expect(await caught(collectOnce(output, failing(published, 'full disk').files))).toBeInstanceOf(QuantizeError)
    const computed: string[] = []
    const { notes } = await collectOnce(output, nodeFiles, { onTap: name => computed.push(name) })
    expect(notes).toEqual(['going on: 8 inputs were finished by an earlier run'])
    expect(computed).toEqual([])
    expect(bytesOf(output).equals(bytesOf(whole))).toBe(true)
  })

  it('does again what was damaged since', async () => {
    const output = await cutOff('damaged')
    const data = join(`${output}.partial`, 'output')
    const bytes = bytesOf(data)
    bytes[bytes.length - 1] ^= 1
    bytes.fill(0xa5, bytes.length / 2)
    fs.writeFileSync(data, bytes)
    const { notes } = await collectOnce(output, nodeFiles)
    expect(notes[1]).toMatch(/\d of them are damaged and done again/)
    expect(bytesOf(output).equals(bytesOf(whole))).toBe(true)
  })

  it('starts over without its file', async () => {
    const output = await cutOff('lost')
    fs.rmSync(join(`${output}.partial`, 'output'))
    const { notes } = await collectOnce(output, nodeFiles)
    expect(notes).toEqual([])
    expect(bytesOf(output).equals(bytesOf(whole))).toBe(true)
  })

  it('starts over when told to', async () => {
    const output = await cutOff('over')
    expect((await collectOnce(output, nodeFiles, { resume: false })).notes).toEqual([])
    expect(bytesOf(output).equals(bytesOf(whole))).toBe(true)
  })

  it('is left alone while another process writes it', async () => {
    const output = await cutOff('locked')
    fs.writeFileSync(join(`${output}.partial`, 'lock'), JSON.stringify({ host: 'elsewhere', pid: 1 }))
    await expect(collectOnce(output, nodeFiles)).rejects.toThrow(/process 1 on elsewhere is writing it/)
  })

  it('is over when only its folder was left behind', async () => {
    const output = await cutOff('published')
    const partial = `${output}.partial`
    fs.rmSync(join(partial, 'output'))
    fs.copyFileSync(whole, output)
    expect((await collectOnce(output, nodeFiles)).notes).toEqual(['an earlier run had finished it'])
    expect(bytesOf(output).equals(bytesOf(whole))).toBe(true)
    expect(fs.existsSync(partial)).toBe(false)
  })
})

describe('the output', () => {
  it('does not replace what came there meanwhile, unless it may', async () => {
    const output = join(folder, 'meanwhile.safetensors')
    const onTap = () => fs.writeFileSync(output, 'mine')
    await expect(collectOnce(output, nodeFiles, { onTap })).rejects.toThrow(/is there since the run began/)
    expect(fs.readFileSync(output, 'utf8')).toBe('mine')
    await collectOnce(output, nodeFiles, { overwrite: true })
    expect(bytesOf(output).equals(bytesOf(whole))).toBe(true)
  })

  it('is not made of a model that changed while it was read', async () => {
    const output = join(folder, 'changed.safetensors')
    const weights = join(source, 'model.safetensors')
    const bytes = bytesOf(weights)
    const onTap = () => fs.writeFileSync(weights, bytes)
    await expect(collectOnce(output, nodeFiles, { onTap })).rejects.toThrow(/was changed or replaced while it was read/)
    expect(fs.existsSync(output)).toBe(false)
    await collectOnce(output, nodeFiles)
  })

  it('is nothing when values are not finite: the same command would fail again', async () => {
    const output = join(folder, 'overflow.safetensors')
    const weights = join(source, 'model.safetensors')
    const bytes = bytesOf(weights)
    const { tensors, close } = openCheckpoint(source, nodeFiles)
    const { shape } = tensors.get('model.layers.0.mlp.down_proj.weight')!
    close()
    const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE())).toString())
    const [start, end] = header['model.layers.0.mlp.down_proj.weight'].data_offsets
    expect(end - start).toBe(4 * shape[0] * shape[1])
    const changed = Buffer.from(bytes)
    const dataStart = 8 + Number(bytes.readBigUInt64LE())
    for (let at = dataStart + start; at < dataStart + end; at += 4) changed.writeFloatLE(3e38, at)
    fs.writeFileSync(weights, changed)
    await expect(collectOnce(output, nodeFiles)).rejects.toThrow(/the source's weights overflow/)
    fs.writeFileSync(weights, bytes)
    expect(fs.existsSync(output)).toBe(false)
    expect(fs.existsSync(`${output}.partial`)).toBe(false)
  })

  it('is nothing when not even a journal could be begun', async () => {
    const output = join(folder, 'no journal.safetensors')
    const files: Files = {
      ...nodeFiles,
      sync() {
        throw new QuantizeError('exhausted', 'full')
      },
    }
    await expect(collectOnce(output, files)).rejects.toThrow('full')
    expect(fs.existsSync(`${output}.partial`)).toBe(false)
  })
})

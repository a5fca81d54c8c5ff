/** Codes of any grid with their parameters and levels, self-contained (docs/codebook-format.md): for grids that no runtime's format stores. */

import type { CodedLinear, Format, LinearScheme, StoredTensor } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { e4m3Values } from '../dtype/small-floats.ts'
import { packLines } from './bits.ts'
import { assembleCodebook } from './codebook-config.ts'
import {
  codebookLayout,
  codebookParts,
  codebookRefusal,
  type PartName,
  partNames,
  rowsPerScale,
  schemeRuns,
  storesGroups,
  toAllRows,
} from './codebook-layout.ts'
import { detectCodebook, unpackCodebook } from './codebook-read.ts'
import { everyBits, everyGrid, gridStorage, ownScaleDtype } from './grid-storage.ts'
import { scaleBytes } from './scale-bytes.ts'

/** [out, G] → stored rows [R, G]. */
const toStoredRows = (values: Float32Array, scheme: LinearScheme): Float32Array => {
  const { out, groups, group } = scheme
  const rows = rowsPerScale(scheme)
  if (rows === 1) return values
  const stored = new Float32Array(Math.ceil(out / rows) * groups)
  for (let row = 0; row < out; row += rows)
    stored.set(values.subarray(row * groups, (row + 1) * groups), (row / rows) * groups)
  const other = toAllRows(stored, scheme).findIndex((value, i) => !Object.is(value, values[i]))
  if (other < 0) return stored
  throw new Error(`row ${Math.floor(other / groups)} of ${scheme.name} has parameters of its own under group ${group}`)
}

/** NVFP4: the E4M3 numbers that the global scale divides to give those in effect. */
const underGlobal = (scales: Float32Array, global: number): Float32Array => {
  const stored = new Map([...e4m3Values()].map(value => [Math.fround(value / global), value]))
  return scales.map(scale => {
    const value = stored.get(scale)
    if (value !== undefined) return value
    throw new Error(`E4M3 under ${global} does not hold a scale of ${scale}`)
  })
}

const isCentred = ({ zeros, bits }: CodedLinear): boolean => zeros.every(zero => zero === 1 << (bits - 1))

const packCodebook = (scheme: LinearScheme, linear: CodedLinear): readonly StoredTensor[] => {
  const { out, in: inputs, bits, codes, scales, zeros, biases, levels, groupOf, decode, globalScale = 1 } = linear
  const parts = codebookParts(scheme)
  const global = scheme.grid === 'nvfp4' ? globalScale : undefined
  const rows = toStoredRows(scales, scheme)
  const runs = schemeRuns(scheme)
  const inRuns = groupOf.every((group, input) => group === runs[input])
  const data: Partial<Record<PartName, Uint8Array>> = {
    codes: bytesOf(packLines(codes, out, inputs, bits, false)),
    scales: scaleBytes(global === undefined ? rows : underGlobal(rows, global), ownScaleDtype(scheme)),
  }
  if (decode === 'affine' && !(scheme.symmetric && isCentred(linear))) data.zeros = bytesOf(toStoredRows(zeros, scheme))
  if (decode === 'biased') data.biases = bytesOf(toStoredRows(biases, scheme))
  if (decode === 'levels') data.levels = bytesOf(levels)
  if (global !== undefined) data.global_scale = bytesOf(Float32Array.of(global))
  if (storesGroups(scheme) || !inRuns) data.groups = bytesOf(groupOf)
  return partNames.flatMap(part => (data[part] ? [{ ...parts[part], data: data[part] }] : []))
}

/** Its config holds the scales of inputs, and is written before they are found. */
const staticRefusal = ({ activations }: LinearScheme): string | undefined =>
  activations && !activations.dynamic && activations.scale === undefined
    ? 'format codebook keeps no scales of inputs that are found while it is written; use compressed-tensors'
    : undefined

export const codebook: Format = {
  name: 'codebook',
  facts: {
    summary: 'codes of any grid with scales and levels in float32 (docs/codebook-format.md)',
    grids: everyGrid,
    bits: everyBits,
    groups: 'any; channel; tensor; block',
    loaders: 'no runtime; quantize eval, compare and convert read it',
    head: true,
    embedding: true,
    anyStorage: true,
    activations: true,
  },
  storage: gridStorage,
  refuses: scheme => codebookRefusal(scheme) ?? staticRefusal(scheme),
  warnings: () => ['no runtime loads the codebook format; quantize eval, compare and convert read it'],
  layout: codebookLayout,
  pack: packCodebook,
  unpack: unpackCodebook,
  detect: detectCodebook,
  assemble: assembleCodebook,
}

/** Where the `codebook` format keeps a linear: names, dtypes and shapes of its tensors (docs/codebook-format.md). */
import type { LinearScheme, TensorInfo } from '../contracts.ts'
import type { Dtype } from '../dtype/dtype.ts'
import { wordsFor } from './bits.ts'
import { ownScaleDtype, tableBits } from './grid-storage.ts'
import { scaleTensorDtype } from './scale-bytes.ts'
import { groupRunsOf, tensorInfo } from './stored.ts'

export const partNames = ['codes', 'scales', 'zeros', 'biases', 'levels', 'global_scale', 'groups'] as const

export type PartName = (typeof partNames)[number]

/** What decides the shapes. */
export type CodebookShape = Pick<LinearScheme, 'name' | 'out' | 'in' | 'grid' | 'bits' | 'group' | 'groups'>

const blockSize = 128

/** Rows of weights that one row of scales serves. */
export const rowsPerScale = ({ group, out }: Pick<LinearScheme, 'group' | 'out'>): number =>
  group === 'tensor' ? out : group === 'block' ? blockSize : 1

/** Inputs of a group; of the last there may be fewer. */
const groupInputs = ({ group, in: inputs }: Pick<LinearScheme, 'group' | 'in'>): number =>
  typeof group === 'number' ? group : group === 'block' ? blockSize : inputs

export const groupCount = (scheme: Pick<LinearScheme, 'group' | 'in'>): number =>
  Math.ceil(scheme.in / groupInputs(scheme))

/** [in]: the group of each input, where groups are runs. */
export const schemeRuns = (scheme: Pick<LinearScheme, 'group' | 'in'>): Int32Array =>
  groupRunsOf(scheme.in, groupInputs(scheme))

/** Parameters as stored, [R, G] → [out, G]. */
export const toAllRows = (
  values: Float32Array,
  scheme: Pick<LinearScheme, 'group' | 'out' | 'groups'>,
): Float32Array => {
  const { out, groups } = scheme
  const rows = rowsPerScale(scheme)
  if (rows === 1) return values
  return Float32Array.from({ length: out * groups }, (_, i) => {
    const row = Math.floor(i / groups)
    return values[Math.floor(row / rows) * groups + (i % groups)]
  })
}

/** All tensors that a linear may have. */
export const codebookParts = (scheme: CodebookShape): Readonly<Record<PartName, TensorInfo>> => {
  const { name, out, in: inputs, bits, groups } = scheme
  const tensor = (part: PartName, dtype: Dtype, ...shape: readonly number[]): TensorInfo =>
    tensorInfo(`${name}.${part}`, dtype, shape)
  const rows = Math.ceil(out / rowsPerScale(scheme))
  return {
    codes: tensor('codes', 'U32', out, wordsFor(inputs, bits)),
    scales: tensor('scales', scaleTensorDtype[ownScaleDtype(scheme)], rows, groups),
    zeros: tensor('zeros', 'F32', rows, groups),
    biases: tensor('biases', 'F32', rows, groups),
    levels: tensor('levels', 'F32', 1 << bits),
    global_scale: tensor('global_scale', 'F32', 1),
    groups: tensor('groups', 'I32', inputs),
  }
}

/** Groups that follow the activations are stored input by input. */
export const storesGroups = ({ actOrder, groups }: Pick<LinearScheme, 'actOrder' | 'groups'>): boolean =>
  actOrder === 'g_idx' && groups > 1

/** The tensors of a linear in the storage that its scheme asks for. */
export const codebookLayout = (scheme: LinearScheme): readonly TensorInfo[] => {
  const parts = codebookParts(scheme)
  const isInt = scheme.grid === 'int'
  return [
    parts.codes,
    parts.scales,
    ...(isInt && scheme.biased ? [parts.biases] : isInt && !scheme.symmetric ? [parts.zeros] : []),
    ...(isInt ? [] : [parts.levels]),
    ...(scheme.grid === 'nvfp4' ? [parts.global_scale] : []),
    ...(storesGroups(scheme) ? [parts.groups] : []),
  ]
}

/** Why a scheme contradicts itself; undefined when it does not. */
export const codebookRefusal = ({ grid, bits }: Pick<LinearScheme, 'grid' | 'bits'>): string | undefined =>
  grid === 'int' || tableBits[grid] === bits
    ? undefined
    : `grid ${grid} has codes of ${tableBits[grid]} bits, not of ${bits}; --bits ${tableBits[grid]} would fit`

/**
 * optimum-quanto (optimum/quanto/nn/qmodule.py, tensor/packed.py): 2 and 4 bits W = scale · q − shift in groups that the loader takes from
 * the number of inputs, packed across the rows of the matrix of groups; 8 bits and FP8 with one scale a row.
 */
import type { CodedLinear, Format, LinearScheme, StoredTensor, TensorInfo } from '../contracts.ts'
import type { WeightDtype } from '../dtype/dtype.ts'
import { assembleQuanto, kindOf } from './quanto-map.ts'
import { packShifts } from './quanto-packing.ts'
import { detectQuanto, unpackQuanto } from './quanto-read.ts'
import { impliedGroup } from './quanto-shapes.ts'
import { chunkRows, packRowChunks } from './row-chunks.ts'
import { floatBytes, tensorInfo, withData } from './stored.ts'

const isPacked = ({ bits }: LinearScheme): boolean => bits < 8

const weightLayout = (scheme: LinearScheme): readonly TensorInfo[] => {
  const { name, out, in: inputs, groups, bits, dtype } = scheme
  if (!isPacked(scheme))
    return [
      tensorInfo(`${name}.weight._data`, kindOf(scheme)!.dtype, [out, inputs]),
      tensorInfo(`${name}.weight._scale`, dtype, [out, 1]),
    ]
  const rows = out * groups
  return [
    tensorInfo(`${name}.weight._data._data`, 'U8', [chunkRows(rows, packShifts(bits)), inputs / groups]),
    tensorInfo(`${name}.weight._scale`, dtype, [rows, 1]),
    tensorInfo(`${name}.weight._shift`, dtype, [rows, 1]),
  ]
}

/** The scales of activations are there even where these are not quantized. */
const layout = (scheme: LinearScheme): readonly TensorInfo[] => [
  ...weightLayout(scheme),
  ...['input_scale', 'output_scale'].map(key => tensorInfo(`${scheme.name}.${key}`, scheme.dtype, [])),
]

const packedCodes = (codes: Uint8Array, scheme: LinearScheme): Uint8Array => {
  const { out, in: inputs, groups, bits } = scheme
  const shifts = packShifts(bits)
  return packRowChunks(codes, shifts, new Uint8Array(chunkRows(out * groups, shifts) * (inputs / groups)))
}

const codesOf = (codes: Uint8Array, scheme: LinearScheme): Uint8Array => {
  if (isPacked(scheme)) return packedCodes(codes, scheme)
  return scheme.grid === 'int' ? codes.map(code => code ^ 128) : codes
}

const pack = (scheme: LinearScheme, { codes, scales, biases }: CodedLinear): readonly StoredTensor[] => {
  const floats = (values: Float32Array, dtype: WeightDtype = scheme.dtype) => floatBytes(values, dtype)
  const one = floats(Float32Array.of(1))
  const shift = isPacked(scheme) ? [floats(biases.map(bias => -bias))] : []
  return withData(layout(scheme), [codesOf(codes, scheme), floats(scales), ...shift, one, one])
}

const groupRefusal = ({ group, in: inputs, bits, grid }: LinearScheme): string | undefined => {
  const implied = impliedGroup(inputs, bits, grid)
  if (group === implied || (group === 'tensor' && implied === 'channel')) return undefined
  return `quanto takes the group from the number of inputs, ${implied} for ${inputs}, not ${group}; leave --group out`
}

/** Its loader repacks such weights for a kernel that wants whole tiles (tensor/weights/tinygemm), and fails on others. */
const tileRefusal = ({ out, bits, dtype, group, grid }: LinearScheme): string | undefined =>
  grid === 'int' && bits === 4 && dtype === 'BF16' && group === 128 && out % 16 !== 0
    ? `out = ${out} is not a multiple of 16, which quanto's kernel for 4 bits in bfloat16 wants; --bits 2 or 8 would fit`
    : undefined

const refuses = (scheme: LinearScheme): string | undefined => {
  const { grid, bits, symmetric, actOrder } = scheme
  if (!kindOf(scheme))
    return grid === 'int'
      ? `quanto has integers of 2, 4 and 8 bits, not of ${bits}`
      : `quanto stores int, fp8 and fp8-e5m2, not ${grid}; --grid fp8 would fit`
  if (actOrder === 'g_idx') return 'quanto keeps groups in the order of the inputs; use --act-order static'
  if (grid === 'int' && bits === 8 && !symmetric) return "quanto's 8-bit integers have no zero point; use --sym"
  return groupRefusal(scheme) ?? tileRefusal(scheme)
}

export const quanto: Format = {
  name: 'quanto',
  facts: {
    summary: 'optimum-quanto: 2 and 4 bits with shifts, 8 bits, FP8',
    grids: ['int', 'fp8', 'fp8-e5m2'],
    bits: [2, 4, 8],
    groups:
      '2 and 4 bits: the first of 128, 96, 64, 32 that divides more than 128 inputs, else channel; 8 bits: channel',
    loaders: 'optimum-quanto (QuantizedModelForCausalLM); not transformers by itself',
    impliedGroup,
    head: true,
    embedding: false,
  },
  storage: ({ grid, bits, dtype }) => {
    if (grid !== 'int') return { decode: 'levels', scaleDtype: dtype }
    if (bits === 8) return { decode: 'affine', scaleDtype: dtype, zeroRange: [128, 128] }
    return { decode: 'biased', scaleDtype: dtype, biasDtype: dtype }
  },
  refuses,
  warnings: () => ['quanto: load it with QuantizedModelForCausalLM of optimum-quanto; transformers alone does not'],
  layout,
  pack,
  unpack: unpackQuanto,
  detect: detectQuanto,
  assemble: assembleQuanto,
}

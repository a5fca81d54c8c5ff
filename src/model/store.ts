/** The tensors of a checkpoint as an architecture asks for them: present, and of the shape that the config implies. */
import type { Linear, TensorInfo, WeightView } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'

/** Modules whose weight is stored in another form than `<module>.weight`, with the shape it has once decoded. */
export type QuantizedShapes = ReadonlyMap<string, { readonly out: number; readonly in: number }>

export interface Store {
  has(tensor: string): boolean
  /** Whether the module's weight is there, plain or quantized. */
  holds(module: string): boolean
  /** A module's weight [out, width]; it may be stored quantized. */
  weight(module: string, out: number, width: number): WeightView
  /** The first of the prefixes under which `suffix` is stored; the first one when none is. */
  prefix(prefixes: readonly string[], suffix: string): string
  /** @throws QuantizeError bad-input when the tensor is missing or has another shape */
  view(tensor: string, shape: readonly number[]): WeightView
  /** A linear of weight [out, in] and, if it has one, bias [out]; its weight may be stored quantized. */
  linear(name: string, out: number, width: number, bias: boolean): Linear
}

const shapeText = (shape: readonly number[]): string => `[${shape.join(', ')}]`

const mismatch = (what: string, found: readonly number[], wanted: readonly number[], configFile: string) =>
  new QuantizeError(
    'bad-input',
    `${what} has shape ${shapeText(found)}, but ${configFile} implies ${shapeText(wanted)}`,
  )

/**
 * @param configFile name of the config, for messages
 * @param quantized modules whose weight is not a plain tensor
 */
export const openStore = (
  tensors: ReadonlyMap<string, TensorInfo>,
  configFile: string,
  quantized: QuantizedShapes,
): Store => {
  const missing = (tensor: string): QuantizeError => {
    const packed = tensor.replace(/\.weight$/, '.qweight')
    const hint = packed !== tensor && tensors.has(packed) ? ` (${printable(packed)} is: quantized already?)` : ''
    return new QuantizeError(
      'bad-input',
      `tensor "${printable(tensor)}", which ${configFile} implies, is not in the checkpoint${hint}`,
    )
  }
  const view = (tensor: string, shape: readonly number[]): WeightView => {
    const found = tensors.get(tensor)?.shape
    if (!found) throw missing(tensor)
    if (found.length !== shape.length || found.some((size, axis) => size !== shape[axis]))
      throw mismatch(`tensor "${printable(tensor)}"`, found, shape, configFile)
    return { tensor }
  }
  const weight = (name: string, out: number, width: number): WeightView => {
    const packed = quantized.get(name)
    if (!packed) return view(`${name}.weight`, [out, width])
    if (packed.out !== out || packed.in !== width)
      throw mismatch(`quantized module "${printable(name)}"`, [packed.out, packed.in], [out, width], configFile)
    return { tensor: `${name}.weight` }
  }
  return {
    has: tensor => tensors.has(tensor),
    holds: module => quantized.has(module) || tensors.has(`${module}.weight`),
    weight,
    prefix: (prefixes, suffix) => prefixes.find(prefix => tensors.has(prefix + suffix)) ?? prefixes[0],
    view,
    linear: (name, out, width, bias) => ({
      name,
      weight: weight(name, out, width),
      ...(bias ? { bias: view(`${name}.bias`, [out]) } : {}),
      out,
      in: width,
    }),
  }
}

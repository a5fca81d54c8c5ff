/** How quanto groups weights, and the shapes that it does not store. */
import type { Bits, GridName, Group } from '../contracts.ts'
import { type Fields, fieldOf } from './config-fields.ts'

/**
 * The group that the loader takes for so many inputs (optimum/quanto/nn/qmodule.py): of 2 and 4 bits the first of 128, 96, 64, 32 that
 * divides them where there are more than 128; else, and for 8 bits, the whole row.
 */
export const impliedGroup = (inputs: number, bits: Bits, grid: GridName): Group => {
  if (grid !== 'int' || bits === 8 || inputs <= 128) return 'channel'
  return [128, 96, 64, 32].find(size => inputs % size === 0) ?? 'channel'
}

/** The columns of the matrix that is packed: a group's weights. */
export const groupWidth = (inputs: number, bits: Bits): number => {
  const group = impliedGroup(inputs, bits, 'int')
  return typeof group === 'number' ? group : inputs
}

type Feature = 'hidden' | 'intermediate' | 'attention'

const inputsOf: Readonly<Record<Feature, readonly string[]>> = {
  hidden: [
    ...['q_proj', 'k_proj', 'v_proj', 'qkv_proj', 'query_key_value', 'gate_proj', 'up_proj', 'gate_up_proj', 'fc1'],
    ...['dense_h_to_4h', 'lm_head', 'embed_out'],
  ],
  intermediate: ['down_proj', 'fc2', 'dense_4h_to_h'],
  attention: ['o_proj', 'out_proj', 'dense'],
}

const sizeOf = (config: Fields, names: readonly string[]): number | undefined => {
  const value = names.map(name => fieldOf(config, name)).find(found => found !== undefined)
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 ? value : undefined
}

const features: Readonly<Record<Feature, (config: Fields) => number | undefined>> = {
  hidden: config => sizeOf(config, ['hidden_size']),
  intermediate: config => sizeOf(config, ['intermediate_size', 'ffn_dim']),
  attention(config) {
    const [heads, width] = [sizeOf(config, ['num_attention_heads']), sizeOf(config, ['head_dim'])]
    return heads !== undefined && width !== undefined ? heads * width : sizeOf(config, ['hidden_size'])
  },
}

/** Inputs of a linear by its name and the model's config; undefined where they do not say. */
const inputsByName = (module: string, config: Fields): number | undefined => {
  const name = module.slice(module.lastIndexOf('.') + 1)
  const feature = (Object.keys(features) as Feature[]).find(key => inputsOf[key].includes(name))
  return feature && features[feature](config)
}

/**
 * [out, in] of a weight that is packed as [rows, width], which alone does not say how many groups a row has: from the length of the bias,
 * where there is one, or the config; undefined where neither fits.
 */
export const shapeOf = (
  module: string,
  rows: number,
  width: number,
  bits: Bits,
  bias: number | undefined,
  config: Fields,
): readonly [number, number] | undefined => {
  const candidates = [bias === undefined ? undefined : (rows * width) / bias, inputsByName(module, config)]
  const inputs = candidates.find(
    size =>
      size !== undefined &&
      Number.isInteger(size) &&
      size % width === 0 &&
      (rows * width) % size === 0 &&
      groupWidth(size, bits) === width,
  )
  return inputs === undefined ? undefined : [(rows * width) / inputs, inputs]
}

/** Where GPTQ keeps a linear: names, dtypes and shapes of its tensors, and which shapes its words can hold. */
import type { Bits, LinearScheme, TensorInfo } from '../contracts.ts'
import { codesPerUnit, wordsFor } from './bits.ts'
import { tensorInfo } from './stored.ts'

export const supportedBits: readonly Bits[] = [2, 3, 4, 8]

export const isBits = (value: unknown): value is Bits => (supportedBits as readonly unknown[]).includes(value)

/**
 * `qweight` [in·b/32, out], packed along in; `qzeros` [G, out·b/32], packed along out; `scales` [G, out]; `g_idx` [in], each input's
 * group. In all (b + (b + 16) / g + 32 / out) bits a weight for groups of g.
 */
export const gptqLayout = ({
  name,
  out,
  in: inputs,
  bits,
  groups,
}: Pick<LinearScheme, 'name' | 'out' | 'in' | 'bits' | 'groups'>): readonly TensorInfo[] => [
  tensorInfo(`${name}.qweight`, 'I32', [wordsFor(inputs, bits), out]),
  tensorInfo(`${name}.qzeros`, 'I32', [groups, wordsFor(out, bits)]),
  tensorInfo(`${name}.scales`, 'F16', [groups, out]),
  tensorInfo(`${name}.g_idx`, 'I32', [inputs]),
]

const fits = (bits: Bits, { out, in: inputs }: LinearScheme): boolean =>
  out % codesPerUnit(bits) === 0 && inputs % codesPerUnit(bits) === 0

/** One sentence on why the words cannot hold this shape, with the bit widths that can. */
export const gptqRefusal = (scheme: LinearScheme): string | undefined => {
  const { out, in: inputs, bits, grid, group } = scheme
  if (grid !== 'int') return `GPTQ stores integers, not ${grid}; --grid int would fit`
  if (group === 'block') return 'GPTQ has one scale for a row of a group, not for a block; --group 128 would fit'
  if (!isBits(bits)) return `GPTQ words hold codes of 2, 3, 4 or 8 bits, not of ${bits}`
  if (fits(bits, scheme)) return undefined
  const unit = codesPerUnit(bits)
  const words = bits === 3 ? 'three 32-bit words' : 'a 32-bit word'
  const [dimension, size, what] = out % unit === 0 ? ['in', inputs, 'codes'] : ['out', out, 'zero points']
  const others = supportedBits.filter(other => fits(other, scheme))
  const remedy = others.length > 0 ? `--bits ${others.join(' or ')} would fit` : 'no bit width fits this shape'
  return `${dimension} = ${size} is not a multiple of ${unit}: ${bits}-bit ${what} are packed ${unit} to ${words}; ${remedy}`
}

import { type GgmlTypeName, ggmlTypes } from '../gguf/types.ts'

/**
 * The dtypes of safetensors 0.8 (safetensors/src/tensor.rs), in the official writer's order: from the narrowest alignment to the widest.
 * Bits an element.
 */
const safetensorsBits = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const

type SafetensorsDtype = keyof typeof safetensorsBits

/** Dtypes of safetensors, and the types of GGUF, some of which store blocks of weights. */
export type Dtype = SafetensorsDtype | GgmlTypeName

/** Dtypes of weights that can be quantized, and of plain weights that are written. */
export type WeightDtype = 'F32' | 'F16' | 'BF16'

/** Bits an element; of a type of blocks, scales counted: Q4_0 has 4.5. */
export const dtypeBits: Readonly<Record<Dtype, number>> = {
  ...(Object.fromEntries(
    Object.entries(ggmlTypes).map(([name, { block, bytes }]) => [name, (8 * bytes) / block]),
  ) as Record<GgmlTypeName, number>),
  ...safetensorsBits,
}

/** Of safetensors. */
export const dtypes = Object.keys(safetensorsBits) as readonly SafetensorsDtype[]

/** Whether safetensors has it. */
export const isDtype = (name: unknown): name is SafetensorsDtype =>
  typeof name === 'string' && Object.hasOwn(safetensorsBits, name)

/** Elements of a block, which lie in one row; 1 for all dtypes but GGUF's types of blocks. */
export const blockOf = (dtype: Dtype): number =>
  Object.hasOwn(ggmlTypes, dtype) ? ggmlTypes[dtype as GgmlTypeName].block : 1

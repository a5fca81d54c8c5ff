/**
 * The GPTQ checkpoint (AutoGPTQ's, read by GPTQModel, transformers, vLLM, SGLang): W[o, i] = scales[g, o] · (q[i, o] − z[g, o]) with
 * g = g_idx[i]. Version 1 stores z − 1, version 2 (gptq_v2) stores z.
 */

import type { Bits, CodedLinear, Configs, Format, LinearScheme, StoredTensor } from '../contracts.ts'
import { bytesOf } from '../dtype/bytes.ts'
import { fromFloat32 } from '../dtype/convert.ts'
import { packLines } from './bits.ts'
import { assembleGptq } from './gptq-config.ts'
import { gptqLayout, gptqRefusal, supportedBits } from './gptq-layout.ts'
import { gptqWarnings } from './gptq-loaders.ts'
import { detectGptq, unpackGptq } from './gptq-read.ts'
import { transpose } from './transpose.ts'

/** Zero points [out, G] → their fields [G, out] as the version stores them. */
const zeroFields = ({ zeros, out }: CodedLinear, version: 1 | 2): Uint8Array => {
  const fields = transpose(Uint8Array.from(zeros), out, zeros.length / out, new Uint8Array(zeros.length))
  if (version === 2) return fields
  if (fields.includes(0)) throw new Error('a zero point of 0 cannot be stored as z - 1; Format.storage forbids it')
  return fields.map(zero => zero - 1)
}

const packGptq = ({ name }: LinearScheme, linear: CodedLinear, version: 1 | 2): readonly StoredTensor[] => {
  const { out, in: inputs, bits, codes, scales, groupOf } = linear
  const groups = scales.length / out
  const data = [
    bytesOf(packLines(codes, out, inputs, bits, true)),
    bytesOf(packLines(zeroFields(linear, version), groups, out, bits, false)),
    fromFloat32(transpose(scales, out, groups, new Float32Array(scales.length)), 'F16'),
    bytesOf(groupOf.slice()),
  ]
  return gptqLayout({ name, out, in: inputs, bits, groups }).map((tensor, index) => ({ ...tensor, data: data[index] }))
}

const highestZero = (bits: Bits): number => (1 << bits) - 1

/** Where a GPTQ checkpoint declares itself: config.json, or quantize_config.json where there is no other. */
const declaring = (configs: Configs): unknown => configs['config.json'] ?? configs['quantize_config.json']

const gptqFormat = (name: string, version: 1 | 2): Format => ({
  name,
  facts: {
    summary: version === 1 ? 'GPTQ, as AutoGPTQ wrote it' : 'GPTQ with zero points as they are',
    grids: ['int'],
    bits: supportedBits,
    groups: 'any that divides the inputs; channel; tensor (stored as channel)',
    loaders:
      version === 1
        ? 'GPTQModel, transformers (with gptqmodel); vLLM and SGLang: 4 and 8 bits, symmetric'
        : 'GPTQModel, transformers (with gptqmodel)',
    head: true,
    fuses: true,
    embedding: false,
  },
  // A v1 zero point of 0 would be stored as an all-ones field, which loaders read in three different ways (gptq-read.ts).
  storage: ({ bits }: LinearScheme) => ({
    decode: 'affine',
    scaleDtype: 'F16',
    zeroRange: [version === 1 ? 1 : 0, highestZero(bits)],
  }),
  refuses: gptqRefusal,
  warnings: scheme => gptqWarnings(scheme, version),
  layout: gptqLayout,
  pack: (module, linear) => packGptq(module, linear, version),
  unpack: (module, tensors, configs) => unpackGptq(module, tensors, declaring(configs), version),
  detect: (tensors, configs) => detectGptq(tensors, declaring(configs), version),
  assemble: (sourceConfig, facts) => assembleGptq(sourceConfig, facts, version),
})

/** `checkpoint_format: gptq`: the one that every loader reads. */
export const gptq = gptqFormat('gptq', 1)

/** `checkpoint_format: gptq_v2`: zero points as they are, 0 included. */
export const gptqV2 = gptqFormat('gptq:v2', 2)

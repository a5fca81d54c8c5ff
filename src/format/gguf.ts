/** GGUF, the files of llama.cpp: each weight has a type of its own, and mixes say which (docs/gguf.md). */
import type {
  ActivationScheme,
  CodedLinear,
  Configs,
  Format,
  LinearScheme,
  Model,
  StoredTensor,
  TensorInfo,
  TensorLookup,
  TensorSource,
  TypedScheme,
  UntypedWeight,
} from '../contracts.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import { layoutOf } from '../gguf/block-layouts.ts'
import { packBlocks } from '../gguf/blocks.ts'
import { blocksOf } from '../gguf/coded.ts'
import { type MixName, mixes, typesOf } from '../gguf/mixes.ts'
import { ggufWeight, isDerived, toGgufName } from '../gguf/names.ts'
import { schemeOfType, storageOfType, widthRefusal } from '../gguf/scheme.ts'
import { type GgmlTypeName, ggmlTypes, isRounded } from '../gguf/types.ts'
import { printable } from '../io/printable.ts'
import { damaged, moduleOf, partOf, roleOf, tensorInfo, withData } from './stored.ts'

const weightOf = (module: string): string => `${module}.weight`

/** Model types that are the llama architecture of llama.cpp. */
const architectures: readonly string[] = ['llama', 'mistral']

const mixModel = ({ blocks, tied }: Model) => {
  const attention = blocks.flatMap(({ ops }) => ops).find(op => op.op === 'attention')
  const { heads, kvHeads } = attention as { heads: number; kvHeads: number }
  return { blocks: blocks.length, heads, kvHeads, tied }
}

const chooseTypes =
  (mix: MixName) =>
  (
    weights: readonly UntypedWeight[],
    model: Model | undefined,
    withImportances: boolean,
  ): ReadonlyMap<string, TypedScheme> => {
    if (!model || !architectures.includes(model.arch))
      throw new QuantizeError(
        'unsupported',
        `format gguf: ${model ? `architecture ${model.arch} is not written` : 'the model has no architecture that is known here'}; ${architectures.join(' and ')} are`,
      )
    const tensors = weights.map(({ name, out, in: inputs }) => ({ name: ggufWeight(name), out, in: inputs }))
    const chosen = typesOf(mix, tensors, mixModel(model), withImportances)
    return new Map(
      weights.map(({ name, asked }) => {
        const { type, instead } = asked ? { type: asked, instead: undefined } : chosen.get(ggufWeight(name))!
        return [name, { ...schemeOfType(type), ...(instead ? { instead } : {}) }]
      }),
    )
  }

const layout = (scheme: LinearScheme): readonly TensorInfo[] => [
  tensorInfo(weightOf(scheme.name), scheme.type!, [scheme.out, scheme.in]),
]

const unpack = (module: string, lookup: TensorLookup) => {
  const tensor = partOf(lookup, weightOf(module), 'gguf')
  const type = tensor.dtype as GgmlTypeName
  const [out, inputs] = tensor.shape
  if (!Object.hasOwn(ggmlTypes, type) || tensor.shape.length !== 2 || inputs % ggmlTypes[type].block !== 0)
    throw damaged(tensor, `is ${type} [${tensor.shape}]`, 'gguf')
  return { decode: 'blocks', out, in: inputs, type, blocks: tensor.read() } as const
}

/** A tensor whose type has blocks. @throws QuantizeError unsupported for a type that is not decoded */
const schemeOfTensor = ({ name, dtype, shape, file }: TensorSource): LinearScheme => {
  const type = dtype as GgmlTypeName
  if (!layoutOf(type) || shape.length !== 2)
    throw new QuantizeError(
      'unsupported',
      `${printable(file)}: tensor "${printable(name)}" is ${type} [${shape}], which is not decoded here`,
    )
  const module = moduleOf(name)
  const scheme = schemeOfType(type)
  return {
    name: module,
    role: roleOf(module),
    out: shape[0],
    in: shape[1],
    dtype: 'F16',
    ...scheme,
    actOrder: 'none',
    groups: shape[1] / (scheme.group as number),
  }
}

const detect = (tensors: ReadonlyMap<string, TensorSource>): ReadonlyMap<string, LinearScheme> | undefined => {
  const blocks = [...tensors.values()].filter(
    ({ dtype }) => Object.hasOwn(ggmlTypes, dtype) && ggmlTypes[dtype as GgmlTypeName].block > 1,
  )
  if (blocks.length === 0) return undefined
  return new Map(blocks.map(schemeOfTensor).map(scheme => [scheme.name, scheme]))
}

/**
 * llama.cpp multiplies blocks with rows in 8 bits: one scale for 32 values (Q8_0, Q8_1), or for 256 where the type has super-blocks (Q8_K)
 * (ggml-cpu.c, type_traits_cpu, vec_dot_type). It keeps the scales of Q8_0 in float16, which is not followed here.
 */
const computesWith = ({ type }: LinearScheme): ActivationScheme => ({
  ...{ grid: 'int8', symmetric: true, dynamic: true, reach: 127 },
  granularity: ggmlTypes[type!].block === 256 ? 256 : 32,
})

const gguf = (mix: MixName, name: string, detects: boolean): Format => {
  const { base, bits, summary, fileType } = mixes[mix]
  const { grid, symmetric, group } = schemeOfType(base)
  return {
    name,
    facts: {
      summary,
      grids: [grid],
      bits: [bits],
      groups: isWeightDtype(base) ? 'none: values' : `of ${base} and of the other types that the mix chooses`,
      loaders: 'llama.cpp and what is built on it: Ollama, LM Studio, llama-cpp-python',
      defaults: { grid, bits, symmetric, group, correct: 0.5, refine: 'cd' },
      head: true,
      embedding: true,
      container: 'gguf',
      mix: { name: mix, fileType },
      ...(isWeightDtype(base) ? { dense: true, valueDtype: base } : {}),
      restDtype: ({ shape }) => (shape.length < 2 ? 'F32' : isWeightDtype(base) ? base : undefined),
      refusesRest: ({ name: tensor }) =>
        isDerived(tensor)
          ? 'derived'
          : toGgufName(tensor) === undefined
            ? `tensor ${printable(tensor)} is none of the llama architecture of llama.cpp`
            : undefined,
    },
    choose: chooseTypes(mix),
    storage: ({ type }) => storageOfType(type!),
    refuses: scheme => widthRefusal(scheme.type!, scheme),
    computesWith,
    warnings: () => [],
    layout,
    pack: (scheme: LinearScheme, linear: CodedLinear): readonly StoredTensor[] =>
      withData(layout(scheme), [packBlocks(scheme.type!, blocksOf(scheme.type!, linear))]),
    unpack: (module, lookup, _configs: Configs) => unpack(module, lookup),
    detect: tensors => (detects ? detect(tensors) : undefined),
    assemble: () => new Map(),
  }
}

/** `gguf` is the mix that most people use; the others are `gguf:<mix>`. */
export const ggufFormats: Readonly<Record<string, Format>> = {
  gguf: gguf('q4_k_m', 'gguf', true),
  ...Object.fromEntries(
    (Object.keys(mixes) as MixName[]).map(mix => [`gguf:${mix}`, gguf(mix, `gguf:${mix}`, false)] as const),
  ),
}

/** Types by their names on the command line. */
export const typeNamed = (name: string): GgmlTypeName | undefined =>
  (Object.keys(ggmlTypes) as GgmlTypeName[]).find(
    type => type.toLowerCase() === name.toLowerCase() && (isWeightDtype(type) || isRounded(type)),
  )

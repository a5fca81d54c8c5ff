/** What an architecture file gives, and the words that several of them share. */
import type { ActivationKind, Block, Model } from '../../contracts.ts'
import { QuantizeError } from '../../errors.ts'
import { type Config, type FieldTable, unsupported } from '../config.ts'
import type { Store } from '../store.ts'

export interface Architecture {
  readonly name: string
  /** Values of config.json's `model_type` that it covers. */
  readonly modelTypes: readonly string[]
  /** Of every config field that it knows: implemented, without effect, or allowed with some values only. */
  fields(config: Config): FieldTable
  build(config: Config, store: Store): Omit<Model, 'arch'>
}

// far beyond any published model; they keep a hostile config from asking for unbounded work
export const limits = {
  blocks: { min: 1, max: 10_000 },
  heads: { min: 1, max: 65_536 },
  width: { min: 1, max: 2 ** 24 },
  vocabulary: { min: 1, max: 2 ** 26 },
  positions: { min: 1, max: 2 ** 31 },
  eps: { min: 1e-30, max: 1 },
} as const

/** transformers' names of activations; those of one kind differ in how they are written, not in their values. */
const activations: Readonly<Record<string, ActivationKind>> = {
  silu: 'silu',
  swish: 'silu',
  relu: 'relu',
  gelu: 'gelu',
  gelu_python: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_fast: 'gelu_tanh',
  gelu_accurate: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  gelu_python_tanh: 'gelu_tanh',
}

/** @throws QuantizeError unsupported for an activation that we do not compute */
export const activation = (config: Config, field: string, arch: string, otherwise: string): ActivationKind => {
  const name = config.text(field, otherwise)
  if (!Object.hasOwn(activations, name))
    throw unsupported(config, field, name, arch, Object.keys(activations).join(', '))
  return activations[name]
}

/** @throws QuantizeError bad-input unless `value` is a multiple of `by` */
export const divides = (config: Config, field: string, value: number, byField: string, by: number): void => {
  if (value % by !== 0)
    throw new QuantizeError('bad-input', `${config.where}${field} ${value} is not a multiple of ${byField} ${by}`)
}

/** Blocks 0 … count − 1. Built in order, so that a config that claims too many ends at the first tensor that is missing. */
export const blocks = (count: number, build: (index: number) => Block): readonly Block[] => {
  const built: Block[] = []
  for (let index = 0; index < count; index++) built.push(build(index))
  return built
}

/**
 * The embedding and the output head. Tied and both stored: the stored head counts, as in transformers (equal values are the
 * same function). Tied and only the head stored: it is the embedding too.
 */
export const embeddingAndHead = (
  store: Store,
  tie: boolean,
  embedding: string,
  head: string,
  vocabulary: number,
  hidden: number,
): Pick<Model, 'embedding' | 'head' | 'tied'> => {
  if (!tie || (store.holds(head) && store.holds(embedding)))
    return {
      embedding: store.weight(embedding, vocabulary, hidden),
      head: store.linear(head, vocabulary, hidden, false),
      tied: false,
    }
  const shared = store.weight(store.holds(head) ? head : embedding, vocabulary, hidden)
  return {
    embedding: shared,
    head: { name: head, weight: shared, out: vocabulary, in: hidden },
    tied: true,
  }
}

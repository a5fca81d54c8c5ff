/** Which weights of a checkpoint could be quantized. */
import type { Checkpoint, Format, Linear, LinearScheme, Model, TensorInfo } from '../contracts.ts'
import { type DecodedCheckpoint, isDecoded } from '../decoded-checkpoint.ts'
import { isFloat } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import { moduleOf } from '../format/stored.ts'
import type { Recipe } from '../recipe.ts'

/** A linear that could be quantized. */
export interface Candidate {
  readonly linear: Linear
  readonly role: LinearScheme['role']
  /** Names of the linears that must have its scheme, itself among them; empty: none. */
  readonly shares: readonly string[]
}

/** Weights that convention leaves dense where only shapes are known: embeddings, heads, norms. */
const denseByName =
  /(^|[._])(embed\w*|wte|wpe|lm_head|head|norm\w*|ln_\w+|layernorm\w*|router|classifier|score)([._]|$)/i

/** Without an architecture: every two-dimensional float tensor called `….weight`, but embeddings, norms and heads. */
const linearsByShape = (tensors: ReadonlyMap<string, TensorInfo>): Linear[] =>
  [...tensors.values()]
    .filter(
      ({ name, shape, dtype }) =>
        name.endsWith('.weight') && shape.length === 2 && isFloat(dtype) && !denseByName.test(name),
    )
    .map(({ name, shape: [out, inputs] }) => ({
      name: name.slice(0, -'.weight'.length),
      weight: { tensor: name },
      out,
      in: inputs,
    }))

/** @throws QuantizeError bad-option where the format has no place for a quantized head or embedding that was asked for */
const besideBlocks = (model: Model, recipe: Recipe, format: Format): Candidate[] => {
  const { headBits, embedBits } = recipe
  const { embedding, head, hidden, vocabulary, tied } = model
  const typed = format.choose !== undefined // every weight has a type
  const cannot = (what: string, flag: string): never => {
    throw new QuantizeError(
      'bad-option',
      `--${flag}: format ${format.name} has no place for a quantized ${what}; leave it out`,
    )
  }
  if (embedBits !== null && !format.facts.embedding) cannot('embedding', 'embed-bits')
  if (headBits !== null && !format.facts.head) cannot('head', 'head-bits')
  const table = { name: moduleOf(embedding.tensor), weight: embedding, out: vocabulary, in: hidden }
  const shared = tied && (typed || embedBits !== null) // one weight serves both
  if (shared && headBits !== null && headBits !== embedBits && !(typed && embedBits === null))
    throw new QuantizeError(
      'bad-option',
      `--head-bits ${headBits}: the head is the embedding, which has ${embedBits} bits; --embed-bits sets both`,
    )
  return [
    ...(typed || embedBits !== null ? [{ linear: table, role: 'embedding' as const, shares: [] }] : []),
    ...((typed || headBits !== null) && !shared ? [{ linear: head, role: 'head' as const, shares: [] }] : []),
  ]
}

/** All that is quantized in the source. */
const storedLinears = (model: Model | undefined, { schemes }: DecodedCheckpoint): Candidate[] => {
  const stages = model?.blocks.flatMap(block => block.stages) ?? []
  const sharing = new Map(
    stages.flatMap(({ linears, share }) =>
      linears.map(({ name }) => [name, share ? linears.map(linear => linear.name) : []] as const),
    ),
  )
  return [...schemes.values()].map(({ name, role, out, in: inputs }) => ({
    linear: { name, weight: { tensor: `${name}.weight` }, out, in: inputs },
    role,
    shares: sharing.get(name) ?? [],
  }))
}

/** All linears that the recipe may choose from. */
export const candidatesOf = (
  model: Model | undefined,
  checkpoint: Checkpoint,
  recipe: Recipe,
  format: Format,
): readonly Candidate[] => {
  if (recipe.method === 'convert' && isDecoded(checkpoint)) return storedLinears(model, checkpoint)
  if (recipe.method === 'convert' && !format.choose) return [] // values of a dtype: no weight is quantized
  if (!model) return linearsByShape(checkpoint.tensors).map(linear => ({ linear, role: 'linear', shares: [] }))
  const stages = model.blocks.flatMap(block => block.stages)
  const ofBlocks = stages.flatMap(({ linears, share }) =>
    linears.map(linear => ({ linear, role: 'linear' as const, shares: share ? linears.map(({ name }) => name) : [] })),
  )
  return [...ofBlocks, ...besideBlocks(model, recipe, format)]
}

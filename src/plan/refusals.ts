/** Why a linear cannot have its scheme: for what it is, for what the format holds, or for the linears beside it. */
import type { Format, Linear, LinearScheme, Storage, TensorInfo } from '../contracts.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import type { Recipe } from '../recipe.ts'
import type { Candidate } from './candidates.ts'

/** Why a conversion decodes a head or an embedding; undefined when the format holds it as it is. */
export const decodedBeside = ({ role }: Candidate, { method }: Recipe, { name, facts }: Format): string | undefined =>
  method !== 'convert' || role === 'linear' || facts.dense || facts[role]
    ? undefined
    : `decoded: format ${name} has no place for a quantized ${role}`

/** Why the format cannot hold a linear with its scheme; undefined when it can. */
export const formatRefusal = (
  { weight }: Linear,
  scheme: LinearScheme,
  format: Format,
  tensors: ReadonlyMap<string, TensorInfo>,
): string | undefined => {
  if (weight.rows || weight.transpose)
    return `its weight is a part of ${weight.tensor}, which format ${format.name} cannot hold`
  const { dtype } = tensors.get(weight.tensor)!
  if (!isWeightDtype(dtype)) return `its weight is ${dtype}; F32, F16 and BF16 can be quantized`
  if (scheme.activations && !format.facts.activations)
    return `format ${format.name} cannot declare quantized activations; leave --activations out, or use compressed-tensors`
  return format.refuses(scheme) ?? inputsRefusal(scheme)
}

/** Why no runtime can quantize what a linear reads as its scheme says; undefined: it can, or does not. */
const inputsRefusal = ({ activations, in: inputs }: LinearScheme): string | undefined => {
  if (typeof activations?.granularity !== 'number') return undefined
  const { granularity, dynamic } = activations
  if (!dynamic) return '--activation-scales: with --group block its inputs have scales of their own; use dynamic'
  return inputs % granularity === 0
    ? undefined
    : `--activations: groups of ${granularity} do not divide its ${inputs} inputs`
}

/** What linears that a runtime fuses must agree on, in words. */
const sharedPart = ({ grid, bits, symmetric, group }: LinearScheme): string =>
  `${bits} bits, grid ${grid}, ${symmetric ? 'symmetric' : 'asymmetric'}, group ${group}`

/** Why a linear cannot have its scheme beside those with which a runtime fuses it; undefined when it can. */
export const fusionRefusal = (
  { linear, shares }: Candidate,
  schemes: ReadonlyMap<string, LinearScheme | undefined>,
): string | undefined => {
  const own = schemes.get(linear.name)!
  for (const name of shares) {
    const other = schemes.get(name)
    if (!other) return `runtimes fuse it with ${name}, which stays unquantized; both must be quantized, or neither`
    if (sharedPart(other) !== sharedPart(own))
      return `runtimes fuse it with ${name}, and the schemes differ (${sharedPart(own)} against ${sharedPart(other)}); give both the same`
  }
  return undefined
}

/** Why a linear cannot have its scheme beside the `first` of a format that holds one; undefined when it can. */
export const uniformRefusal = (scheme: LinearScheme, first: LinearScheme, { name }: Format): string | undefined =>
  sharedPart(scheme) === sharedPart(first)
    ? undefined
    : `format ${name} has one scheme for all linears: ${sharedPart(first)}, not ${sharedPart(scheme)}`

/** Why AWQ's clip search cannot choose the ranges of a linear; undefined: it can. */
export const clipRefusal = ({ group, grid }: LinearScheme, { second }: Storage): string | undefined =>
  group === 'tensor' || group === 'block' || second
    ? `--clip awq gives each group of columns a scale of its own, which ${second ? `grid ${grid}` : `--group ${group}`} has not; use --clip mse`
    : undefined

/** The rotary embedding of a config.json, also under the keys that it had before transformers 5. */
import { isObject } from '../io/is-object.ts'

type Config = Readonly<Record<string, unknown>>

/**
 * `rope_parameters` as `rope_theta` and `rope_scaling` too, where they are not there: mlx-lm 0.32 and older loaders read these alone, and
 * compute with a base of 10000 without a word where they are missing. transformers 5 takes either.
 */
export const withLegacyRope = (config: Config): Config => {
  const { rope_parameters: parameters } = config
  if (!isObject(parameters) || typeof parameters.rope_theta !== 'number') return config // several kinds of layers have no old keys
  const { rope_theta, ...scaling } = parameters
  const scaled = typeof scaling.rope_type === 'string' && scaling.rope_type !== 'default'
  return {
    ...config,
    rope_theta: config.rope_theta ?? rope_theta,
    ...(scaled ? { rope_scaling: config.rope_scaling ?? scaling } : {}),
  }
}

/** Which linears the patterns of --include, --exclude and --override name. */
import { QuantizeError } from '../errors.ts'
import { matchesGlob } from '../glob.ts'
import { nearestName } from '../nearest.ts'
import type { Recipe } from '../recipe.ts'
import type { Candidate } from './candidates.ts'

/** Why the globs leave a linear dense; undefined when they do not. */
export const leftOut = (name: string, { include, exclude }: Recipe): string | undefined => {
  const excluded = exclude.find(glob => matchesGlob(glob, name))
  if (excluded !== undefined) return `--exclude ${excluded}`
  return include.length > 0 && !include.some(glob => matchesGlob(glob, name)) ? 'not named by --include' : undefined
}

/** A hint: the module name, or a part of one, that a pattern most likely meant. */
const nearestTo = (glob: string, names: readonly string[]): string => {
  const word = glob.replaceAll(/[*?]/g, '').split('.').filter(Boolean).at(-1) ?? ''
  const parts = [...new Set(names.flatMap(name => name.split('.')))]
  const nearest = nearestName(glob, names) ?? nearestName(word, parts)
  if (nearest !== undefined && nearest !== word) return `the nearest name is ${nearest}`
  return `the first is ${names[0] ?? 'not there'}`
}

/** @throws QuantizeError bad-option for a glob that matches no linear: a misspelt one would be without effect */
export const checkGlobs = ({ include, exclude, overrides }: Recipe, candidates: readonly Candidate[]): void => {
  const globs = [
    ...include.map(glob => ['include', glob]),
    ...exclude.map(glob => ['exclude', glob]),
    ...overrides.map(({ glob }) => ['override', glob]),
  ]
  for (const [flag, glob] of globs)
    if (!candidates.some(({ linear }) => matchesGlob(glob, linear.name)))
      throw new QuantizeError(
        'bad-option',
        `--${flag} ${glob}: matches no linear of the model; ${nearestTo(
          glob,
          candidates.map(({ linear }) => linear.name),
        )}`,
      )
}

import { createRequire } from 'node:module'

const manifest: { readonly name: string; readonly version: string } = createRequire(import.meta.url)('../package.json')

export const toolName = manifest.name
/** The version of this package. */
export const version = manifest.version

import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { packageFile } from './package-files.ts'

const manifest: { readonly name: string; readonly version: string } = createRequire(import.meta.url)(
  fileURLToPath(packageFile('../package.json')),
)

export const toolName = manifest.name
/** The version of this package. */
export const version = manifest.version

/** Writes docs/cli.md from the table of options: `npx tsx scripts/make-cli-docs.ts`. */
import { writeFileSync } from 'node:fs'
import { cliDocs } from '../src/cli/docs.ts'

writeFileSync(new URL('../docs/cli.md', import.meta.url), cliDocs())

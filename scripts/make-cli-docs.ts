/** Writes docs/cli.md and docs/recipe.schema.json from the table of options: `npx tsx scripts/make-cli-docs.ts`. */
import { writeFileSync } from 'node:fs'
import { cliDocs, recipeSchema } from '../src/cli/docs.ts'

writeFileSync(new URL('../docs/cli.md', import.meta.url), cliDocs())
writeFileSync(new URL('../docs/recipe.schema.json', import.meta.url), recipeSchema())

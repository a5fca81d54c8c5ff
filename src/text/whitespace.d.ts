export function withUnicodeWhitespace(pattern: RegExp): RegExp
export function useUnicodeWhitespace(node: unknown): void

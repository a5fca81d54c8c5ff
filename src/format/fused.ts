/** What vLLM and SGLang fuse into one module, whose name lists of modules are then matched against. */
const fusedModules: Readonly<Record<string, readonly string[]>> = {
  qkv_proj: ['q_proj', 'k_proj', 'v_proj'],
  gate_up_proj: ['gate_proj', 'up_proj'],
}

/** The names of fused modules all of whose shards are among `names`. */
export const fusedOf = (names: readonly string[]): string[] => {
  const known = new Set(names)
  return Object.entries(fusedModules).flatMap(([fused, [first, ...others]]) =>
    names
      .filter(name => name.endsWith(`.${first}`))
      .map(name => name.slice(0, -first.length))
      .filter(prefix => others.every(shard => known.has(prefix + shard)))
      .map(prefix => prefix + fused),
  )
}

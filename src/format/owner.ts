/** The quantized module that a stored tensor is a part of: its name up to some dot; undefined for biases, and for what belongs to none. */
export const ownerOf = (tensor: string, modules: { has(name: string): boolean }): string | undefined => {
  for (let dot = tensor.indexOf('.'); dot >= 0; dot = tensor.indexOf('.', dot + 1)) {
    const module = tensor.slice(0, dot)
    if (modules.has(module)) return tensor.slice(dot) === '.bias' ? undefined : module
  }
  return undefined
}

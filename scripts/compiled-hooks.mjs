/** See use-compiled.mjs; Node runs this in a thread of its own. */
const root = new URL('../', import.meta.url).href

export async function resolve(specifier, context, next) {
  // What examples import comes from the bundle: half of an example's time went into asking here for each file of dist/
  const [, door] = /^passfd(\/\w+|)$/.exec(specifier) ?? []
  if (door !== undefined) return { url: `${root}build/dist${door}/index.js`, format: 'module', shortCircuit: true }
  const found = await next(specifier, context)
  if (!found.url.startsWith(root) || !/^(?:src|test|bench|examples|attack)\/.*\.ts$/.test(found.url.slice(root.length)))
    return found
  return { url: `${root}build/${found.url.slice(root.length, -3)}.js`, format: 'module', shortCircuit: true }
}

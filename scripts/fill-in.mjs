/** Pages with parts that a program writes: what stands between <!-- NAME --> and <!-- /NAME --> is written anew. */
import { readFileSync, writeFileSync } from 'node:fs'

/** `parts`: by name. Throws if the page has no place for one. */
export function fillIn(path, parts) {
  let text = readFileSync(path, 'utf8')
  for (const [name, content] of Object.entries(parts)) {
    const place = new RegExp(`(<!-- ${name} -->\n)[\\s\\S]*?(<!-- /${name} -->)`)
    if (!place.test(text)) throw new Error(`${path} has no place for ${name}`)
    text = text.replace(place, (_, begin, end) => `${begin}\n${content}\n\n${end}`)
  }
  writeFileSync(path, text)
}

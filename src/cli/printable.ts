/** Text of other processes, for a terminal. */

/** Characters that move the cursor, change colours, or change the direction of the text. */
const OBEYED = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** Escapes what a terminal would obey, as JSON does. */
export function printable(text: string): string {
  return text.replace(OBEYED, character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** JSON that a terminal does not obey: JSON itself escapes only some of these characters. `space`: the indentation. */
export function printableJson(value: unknown, space?: number): string {
  // Outside of texts JSON has no such character but the newlines of the indentation
  return JSON.stringify(value, undefined, space).split('\n').map(printable).join('\n')
}

/** At most `most` characters, with an ellipsis in the place of the others. */
export function shortened(text: string, most: number): string {
  const characters = [...text]
  return characters.length <= most ? text : `${characters.slice(0, most - 1).join('')}…`
}
